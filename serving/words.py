"""What the page says, in English and Italian, by the `Accept-Language` of the request.

Not by `gr.I18n`: it follows only languages that Gradio itself speaks, and Gradio has no Italian (its own few words,
such as Record, stay English). To add a language, add a table and name it in `TABLES`.
"""

from serving.errors import AudioError
from serving.media import MAX_SECONDS, NoSoundError, NotMediaError, TooLongError

ENGLISH = {
    "intro": "Record your voice or upload a file: the text appears below.",
    "audio": "Recording",
    "transcribe": "Transcribe",
    "text": "Text",
    "placeholder": "What was said will appear here.",
    "working": "Transcribing",
    "credits": (
        "Whisper by OpenAI, fine-tuned with Sussurro."
        " Recordings are deleted within about an hour, and what is said is never logged."
    ),
    "nothing": "There is no recording yet: press Record, or upload a file.",
    "not_media": "This file could not be read as audio or video. Try another format, such as mp3, wav, m4a or mp4.",
    "no_sound": "This file holds no sound. Check the microphone or the file, and try again.",
    "too_long": "This recording is longer than {minutes:g} minutes. Cut it into parts and try again.",
}
ITALIAN = {
    "intro": "Registra la tua voce o carica un file: il testo compare qui sotto.",
    "audio": "Registrazione",
    "transcribe": "Trascrivi",
    "text": "Testo",
    "placeholder": "Qui comparirà quello che è stato detto.",
    "working": "Trascrizione in corso",
    "credits": (
        "Whisper di OpenAI, perfezionato con Sussurro."
        " Le registrazioni sono cancellate entro un'ora circa e nulla di ciò che si dice viene annotato."
    ),
    "nothing": "Non c'è ancora una registrazione: premi Record o carica un file.",
    "not_media": "Il file non è leggibile come audio o video. Prova un altro formato, come mp3, wav, m4a o mp4.",
    "no_sound": "Il file non contiene suono. Controlla il microfono o il file e riprova.",
    "too_long": "La registrazione supera i {minutes:g} minuti. Dividila in parti e riprova.",
}
TABLES = {"en": ENGLISH, "it": ITALIAN}
REASONS = {NotMediaError: "not_media", NoSoundError: "no_sound", TooLongError: "too_long"}


def in_language_of(accept_language: str) -> dict[str, str]:
    """The table of the first language of an `Accept-Language` header that there is one for; English otherwise."""
    for wish in accept_language.split(","):
        language = wish.strip().split(";")[0].split("-")[0].lower()
        if language in TABLES:
            return TABLES[language]
    return ENGLISH


def explain(error: AudioError, words: dict[str, str]) -> str:
    """The error in plain words, without the server's file name."""
    reason = REASONS.get(type(error))
    return words[reason].format(minutes=MAX_SECONDS / 60) if reason else str(error)
