from django.test import TestCase

from notes.models import Note


class NoteTest(TestCase):
    def test_what_is_written_is_read(self) -> None:
        number = Note.objects.create(text="hello").pk
        self.assertEqual(self.client.get(f"/notes/{number}").json(), {"text": "hello", "readers": 1})
