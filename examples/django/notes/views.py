from django.core.cache import cache
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from notes.models import Note


@csrf_exempt
@require_POST
def notes(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"id": Note.objects.create(text=request.POST["text"]).pk})


def note(request: HttpRequest, number: int) -> JsonResponse:
    found = get_object_or_404(Note, pk=number)
    cache.add(f"readers:{number}", 0, None)
    return JsonResponse({"text": found.text, "readers": cache.incr(f"readers:{number}")})
