from django.urls import path
from notes.views import note, notes

from multidb.client import connect
from multidb.client.routes import django_view

urlpatterns = [
    path("notes", notes),
    path("notes/<int:number>", note),
    path("health/databases", django_view(connect())),
]
