# multidb with what the profiles backup and monitoring, and CI, need. In a checkout: docker build -t multidb .
ARG BASE=python:3.13-slim
FROM ${BASE}

# pg_dump of 18 is for servers of Postgres 17 and 18; an older server needs the client of its own version.
ARG POSTGRES=18
RUN if [ ! -x "/usr/lib/postgresql/${POSTGRES}/bin/pg_dump" ]; then \
      apt-get update \
      && apt-get install -y --no-install-recommends ca-certificates postgresql-common \
      && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
      && apt-get install -y --no-install-recommends "postgresql-client-${POSTGRES}" \
      && rm -rf /var/lib/apt/lists/*; \
    fi

# embedded brings servers to test with: --build-arg EXTRAS=serve,s3,remote,embedded
ARG EXTRAS=serve,s3,remote
COPY pyproject.toml README.md LICENSE /src/
COPY multidb /src/multidb
COPY templates /src/templates
RUN pip install --no-cache-dir "/src[${EXTRAS}]" && rm -rf /src

WORKDIR /project
ENTRYPOINT ["multidb"]
