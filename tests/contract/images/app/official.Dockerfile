FROM python:3.12-slim
RUN pip install --no-cache-dir psycopg2-binary redis neo4j
COPY app.py /app/app.py
CMD ["python3", "/app/app.py"]
