"""What the page says, in English and Italian, by the `Accept-Language` of the request.

Not by `gr.I18n`: it follows only languages that Gradio itself speaks, and Gradio has no Italian. Its own few words
(Record, Drop File Here) stand in `GRADIO`, and page.js puts them into the visitor's language. An error is found by its
class's name. To add a language, add a table and name it in `TABLES`.
"""

from serving.errors import AudioError
from serving.media import MAX_SECONDS

ENGLISH = {
    "intro": "Speech becomes text: say something, or choose a recording, a video or a YouTube link.",
    "record": "Record",
    "audio": "Audio",
    "video": "Video",
    "youtube": "YouTube",
    "recording": "Your voice",
    "audio_file": "Audio file",
    "video_file": "Video file",
    "link": "YouTube link",
    "look_up": "Find the video",
    "example": "Try an example",
    "example_credit": (
        "Example: voice [Carlo Flora](http://www.carloflora.com), text Silvia Petrin, from Asterisk's Italian sounds,"
        " [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/), converted to MP3."
    ),
    "transcribe": "Transcribe",
    "cancel": "Cancel",
    "options": "Options",
    "language": "Language spoken",
    "detect": "Detect it",
    "translate": "Translate into English",
    "words": "A time for every word",
    "words_info": "Click any word to hear it; the times go into the JSON file. Slower.",
    "result": "What was said",
    "timeline": "Timeline",
    "text": "Text",
    "placeholder": "What was said will appear here.",
    "timeline_label": "Passages with their times: choose one to hear it",
    "downloads": "Download",
    "waiting": "Waiting for a turn",
    "reading": "Reading the recording",
    "downloading": "Fetching the sound from YouTube",
    "working": "Transcribing",
    "left": "about {time} left",
    "finished": "Done: {seconds} of recording in {taken}.",
    "silence": "No words were recognised in this recording.",
    "stopped": "Cancelled. What had been recognised is kept.",
    "unplayable": "This browser cannot play that file. Text and downloads are not affected.",
    "player": "The recording",
    "credits": (
        "Whisper by OpenAI, fine-tuned with Sussurro."
        " Recordings are deleted within about an hour, and what is said is never logged."
    ),
    "model": "Model",
    "nothing": "There is no recording yet: press Record, or choose a file.",
    "no_link": "There is no link yet: paste one, such as https://youtu.be/…",
    "bad_language": "This model does not know the language “{language}”. It knows: {languages}.",
    "no_translation": "This model cannot translate.",
    "NotFoundError": "The recording is no longer here. Record or upload it again.",
    "NotMediaError": "This file could not be read as audio or video. Try another format, such as mp3, wav, m4a or mp4.",
    "NoSoundError": "This file holds no sound. Check the microphone or the file, and try again.",
    "TooLongError": "This recording is longer than {minutes:g} minutes. Cut it into parts and try again.",
    "StoppedError": "Cancelled.",
    "NotYouTubeError": "This is not a link to a YouTube video. Copy it from the video's page or its Share button.",
}
ITALIAN = {
    "intro": "La voce diventa testo: parla, oppure scegli una registrazione, un video o un link di YouTube.",
    "record": "Registra",
    "audio": "Audio",
    "video": "Video",
    "youtube": "YouTube",
    "recording": "La tua voce",
    "audio_file": "File audio",
    "video_file": "File video",
    "link": "Link di YouTube",
    "look_up": "Trova il video",
    "example": "Prova un esempio",
    "example_credit": (
        "Esempio: voce [Carlo Flora](http://www.carloflora.com), testo Silvia Petrin, dai suoni italiani di Asterisk,"
        " [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/), convertito in MP3."
    ),
    "transcribe": "Trascrivi",
    "cancel": "Annulla",
    "options": "Opzioni",
    "language": "Lingua parlata",
    "detect": "Riconoscila",
    "translate": "Traduci in inglese",
    "words": "Un tempo per ogni parola",
    "words_info": "Clicca una parola per ascoltarla; i tempi vanno nel file JSON. Più lento.",
    "result": "Che cosa è stato detto",
    "timeline": "Passaggi",
    "text": "Testo",
    "placeholder": "Qui comparirà quello che è stato detto.",
    "timeline_label": "Passaggi con i loro tempi: scegline uno per ascoltarlo",
    "downloads": "Scarica",
    "waiting": "In attesa del proprio turno",
    "reading": "Lettura della registrazione",
    "downloading": "Prelievo dell'audio da YouTube",
    "working": "Trascrizione in corso",
    "left": "mancano circa {time}",
    "finished": "Fatto: {seconds} di registrazione in {taken}.",
    "silence": "In questa registrazione non è stata riconosciuta nessuna parola.",
    "stopped": "Annullato. Il testo già riconosciuto resta.",
    "unplayable": "Questo browser non sa riprodurre il file. Il testo e i file da scaricare non ne risentono.",
    "player": "La registrazione",
    "credits": (
        "Whisper di OpenAI, perfezionato con Sussurro."
        " Le registrazioni sono cancellate entro un'ora circa e nulla di ciò che si dice viene annotato."
    ),
    "model": "Modello",
    "nothing": "Non c'è ancora una registrazione: premi Registra o scegli un file.",
    "no_link": "Non c'è ancora un link: incollane uno, come https://youtu.be/…",
    "bad_language": "Questo modello non conosce la lingua «{language}». Conosce: {languages}.",
    "no_translation": "Questo modello non sa tradurre.",
    "NotFoundError": "La registrazione non c'è più. Registrala o caricala di nuovo.",
    "NotMediaError": "Il file non è leggibile come audio o video. Prova un altro formato, come mp3, wav, m4a o mp4.",
    "NoSoundError": "Il file non contiene suono. Controlla il microfono o il file e riprova.",
    "TooLongError": "La registrazione supera i {minutes:g} minuti. Dividila in parti e riprova.",
    "StoppedError": "Annullato.",
    "NotYouTubeError": "Non è il link di un video di YouTube. Copialo dalla pagina del video o dal suo tasto Condividi.",
}
TABLES = {"en": ENGLISH, "it": ITALIAN}

GRADIO = {
    "it": {
        "Record": "Registra",
        "Stop": "Ferma",
        "Stop recording": "Ferma la registrazione",
        "Pause": "Pausa",
        "Resume": "Riprendi",
        "Play": "Ascolta",
        "Record from microphone": "Registra dal microfono",
        "Clear": "Cancella",
        "Clear audio": "Cancella l'audio",
        "No microphone found": "Nessun microfono trovato",
        "Please allow access to the microphone for recording.": "Permetti l'uso del microfono per registrare.",
        "Could not start recording from the microphone.": "Non è stato possibile registrare dal microfono.",
        "Drop File Here": "Trascina qui il file",
        "Click to Upload": "Clicca per caricarlo",
        "or": "oppure",
        "- or -": "oppure",
        "Uploading...": "Caricamento…",
        "Copy": "Copia",
        "Copied": "Copiato",
        "Use via API": "Uso da programma (API)",
        "Waiting": "Attendi",
        "This application is currently busy. Please try again.": (
            "In questo momento ci sono troppe richieste. Riprova fra un minuto."
        ),
        "Connection errored out.": "Il collegamento è caduto. Ricarica la pagina e riprova.",
        "Error": "Errore",
    },
    "en": {
        "This application is currently busy. Please try again.": (
            "Too many people are waiting at the moment. Try again in a minute."
        ),
        "Connection errored out.": "The connection was lost. Reload the page and try again.",
    },
}
QUEUED = {"en": "{place} of {all} in the queue", "it": "In coda: {place} di {all}"}


def language_of(accept_language: str) -> str:
    """The first language of an `Accept-Language` header that there is a table for; English otherwise."""
    for wish in accept_language.split(","):
        language = wish.strip().split(";")[0].split("-")[0].lower()
        if language in TABLES:
            return language
    return "en"


def in_language_of(accept_language: str) -> dict[str, str]:
    """The table of that language."""
    return TABLES[language_of(accept_language)]


def explain(error: AudioError, words: dict[str, str]) -> str:
    """The error in plain words, without the server's file name."""
    for kind in type(error).__mro__:  # a class without words of its own takes its parent's
        if kind.__name__ in words:
            return words[kind.__name__].format(minutes=MAX_SECONDS / 60)
    return str(error)
