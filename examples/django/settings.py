"""Database and cache from the app's variables; `multidb connect NAME -- COMMAND` runs a program with them."""

import os
import sys

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "for this example only")
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "urls"
INSTALLED_APPS = ["notes"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["POSTGRES_HOST"],
        "PORT": os.environ["POSTGRES_PORT"],
        "NAME": os.environ["POSTGRES_DB"],
        "USER": os.environ["POSTGRES_USER"],
        "PASSWORD": os.environ["POSTGRES_PASSWORD"],
        "CONN_MAX_AGE": 60,
        "TEST": {"NAME": os.environ["POSTGRES_DB"] + "_test"},  # postgres: {test_database: true}
    }
}
TEST_RUNNER = "multidb.client.django.TestRunner"  # an app may not create databases: it empties the one it has for tests
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": os.environ["REDIS_URL"],
        "KEY_PREFIX": os.environ.get("REDIS_KEY_PREFIX", "").rstrip(":"),  # Django puts a colon behind it
    }
}
if "test" in sys.argv:  # tests write into the process, and not among what the app keeps
    CACHES["default"] = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
