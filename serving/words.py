"""What the page says, in English and Italian, by the `Accept-Language` of the request.

Not by `gr.I18n`: it follows only languages that Gradio itself speaks, and Gradio has no Italian. Its own few words
(Record, Drop File Here) stand in `GRADIO`, and page.js puts them into the visitor's language. An error is found by its
class's name. To add a language, add a table and name it in `TABLES`.
"""

from serving.errors import UserError
from serving.languages import preferred
from serving.media import LIMITS

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
        " [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/), joined and converted."
    ),
    "transcribe": "Transcribe",
    "cancel": "Cancel",
    "options": "Options",
    "language": "Language spoken",
    "detect": "Detect it",
    "translate": "Translate into English",
    "words": "A time for every word",
    "words_info": "Click any word to hear it; the times go into the JSON file. Slower.",
    "timeline": "Timeline",
    "text": "Text",
    "placeholder": "What was said will appear here.",
    "downloads": "Download",
    "waiting": "Waiting for a turn",
    "reading": "Reading the recording",
    "downloading": "Fetching the sound from YouTube",
    "working": "Transcribing",
    "left": "about {time} left",
    "finished": "Done: {seconds} of recording in {taken}.",
    "silence": "No words were recognised in this recording.",
    "trusted": "Likely right",
    "doubted": "Better checked",
    "none_wrong": "an estimated {share} that not a word is wrong.",
    "some_wrong": "an estimated {share} that at most {bound} of the words are wrong.",
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
    "address": "Recordings are not fetched from addresses. Download it yourself and upload the file.",
    "busy": (
        "This could not be taken on: too many people are waiting, or something went wrong. Try again in a minute."
    ),
    "NotFoundError": "The recording is no longer here. Record or upload it again.",
    "NotMediaError": "This file could not be read as audio or video. Try another format, such as mp3, wav, m4a or mp4.",
    "ArchiveError": "This file is an archive, such as zip. Unpack it and choose the recording itself.",
    "ElsewhereError": "This file holds no sound itself: it only names other files. Choose the recording itself.",
    "NoSoundError": "This file holds no sound. Check the microphone or the file, and try again.",
    "TooLongError": "This recording is longer than {minutes:g} minutes. Cut it into parts and try again.",
    "TooLargeError": "This file is larger than {gigabytes:g} GB. Save its sound alone, as mp3 or m4a, and try again.",
    "TooCostlyError": "Reading this file took too long. Convert it to mp3, or cut it into parts, and try again.",
    "NoRoomError": "There is no room for this recording at the moment; nothing is wrong with it. Try again later.",
    "LanguageError": "This model does not know that language, or cannot translate. Choose another.",
    "StoppedError": "Cancelled.",
    "LinkError": "This video could not be had from YouTube. Try another, or upload a recording of it.",
    "NotYouTubeError": "This is not a link to a YouTube video. Copy it from the video's page or its Share button.",
    "PlaylistError": "This is a link to a list of videos or a channel. Open one video and copy its link.",
    "LiveError": "This video is live at the moment. Come back when it is over.",
    "PremiereError": "This video has not begun yet. Come back when it is over.",
    "LinkTooLongError": "This video is longer than {minutes:g} minutes. Choose a shorter one.",
    "BotCheckError": (
        "YouTube takes this server for a robot and gives it nothing. Download the video yourself and upload it."
    ),
    "AgeLimitError": "YouTube shows this video only to adults who have signed in. Choose another.",
    "PrivateError": "This video is private. Ask its owner for the recording, and upload it.",
    "MembersOnlyError": "This video is for the channel's members only. Choose another.",
    "RegionError": "YouTube does not show this video in the server's country. Download it yourself and upload it.",
    "RemovedError": "This video is no longer there, or never was. Check the link.",
    "LinkNetworkError": "YouTube could not be reached. Try again in a minute, or upload a recording.",
    "LinkFailedError": "This video could not be had from YouTube. Try another, or download it yourself and upload it.",
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
        " [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/), uniti e convertiti."
    ),
    "transcribe": "Trascrivi",
    "cancel": "Annulla",
    "options": "Opzioni",
    "language": "Lingua parlata",
    "detect": "Riconoscila",
    "translate": "Traduci in inglese",
    "words": "Un tempo per ogni parola",
    "words_info": "Clicca una parola per ascoltarla; i tempi vanno nel file JSON. Più lento.",
    "timeline": "Passaggi",
    "text": "Testo",
    "placeholder": "Qui comparirà quello che è stato detto.",
    "downloads": "Scarica",
    "waiting": "In attesa del proprio turno",
    "reading": "Lettura della registrazione",
    "downloading": "Prelievo dell'audio da YouTube",
    "working": "Trascrizione in corso",
    "left": "mancano circa {time}",
    "finished": "Fatto: {seconds} di registrazione in {taken}.",
    "silence": "In questa registrazione non è stata riconosciuta nessuna parola.",
    "trusted": "Probabilmente giusto",
    "doubted": "Meglio controllare",
    "none_wrong": "stima: {share} che nessuna parola sia sbagliata.",
    "some_wrong": "stima: {share} che al massimo il {bound} delle parole sia sbagliato.",
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
    "address": "Le registrazioni non vengono prese da un indirizzo. Scarica tu il file e caricalo.",
    "busy": (
        "Non è stato possibile procedere: ci sono troppe richieste, o qualcosa è andato storto. Riprova fra un minuto."
    ),
    "NotFoundError": "La registrazione non c'è più. Registrala o caricala di nuovo.",
    "NotMediaError": "Il file non è leggibile come audio o video. Prova un altro formato, come mp3, wav, m4a o mp4.",
    "ArchiveError": "Il file è un archivio, come zip. Estrai la registrazione e scegli quella.",
    "ElsewhereError": "Il file non contiene suono: nomina soltanto altri file. Scegli la registrazione vera e propria.",
    "NoSoundError": "Il file non contiene suono. Controlla il microfono o il file e riprova.",
    "TooLongError": "La registrazione supera i {minutes:g} minuti. Dividila in parti e riprova.",
    "TooLargeError": "Il file supera i {gigabytes:g} GB. Salvane solo il suono, come mp3 o m4a, e riprova.",
    "TooCostlyError": "La lettura del file ha richiesto troppo tempo. Convertilo in mp3 o dividilo in parti e riprova.",
    "NoRoomError": "In questo momento non c'è posto per la registrazione, che non ha difetti. Riprova più tardi.",
    "LanguageError": "Questo modello non conosce quella lingua, o non sa tradurre. Scegline un'altra.",
    "StoppedError": "Annullato.",
    "LinkError": "Non è stato possibile avere il video da YouTube. Provane un altro, o carica una registrazione.",
    "NotYouTubeError": (
        "Non è il link di un video di YouTube. Copialo dalla pagina del video o dal suo tasto Condividi."
    ),
    "PlaylistError": "È il link di un elenco di video o di un canale. Apri un solo video e copia il suo link.",
    "LiveError": "Il video è in diretta in questo momento. Torna quando è finito.",
    "PremiereError": "Il video non è ancora cominciato. Torna quando è finito.",
    "LinkTooLongError": "Il video supera i {minutes:g} minuti. Scegline uno più breve.",
    "BotCheckError": (
        "YouTube scambia questo server per un robot e non gli dà nulla. Scarica tu il video e caricalo qui."
    ),
    "AgeLimitError": "YouTube mostra il video solo a maggiorenni che hanno fatto l'accesso. Scegline un altro.",
    "PrivateError": "Il video è privato. Chiedi la registrazione a chi lo ha pubblicato e caricala qui.",
    "MembersOnlyError": "Il video è riservato agli abbonati del canale. Scegline un altro.",
    "RegionError": "YouTube non mostra il video nel paese di questo server. Scaricalo tu e caricalo qui.",
    "RemovedError": "Il video non c'è più, o non c'è mai stato. Controlla il link.",
    "LinkNetworkError": "YouTube non risponde. Riprova fra un minuto, o carica una registrazione.",
    "LinkFailedError": "Il video non si è potuto avere da YouTube. Provane un altro, o scaricalo tu e caricalo qui.",
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
    return preferred(accept_language, TABLES)


def in_language_of(accept_language: str) -> dict[str, str]:
    """The table of that language."""
    return TABLES[language_of(accept_language)]


def explain(error: UserError, words: dict[str, str]) -> str:
    """The error in plain words, without the server's file name."""
    for kind in type(error).__mro__:  # a class without words of its own takes its parent's
        if kind.__name__ in words:
            return words[kind.__name__].format(minutes=LIMITS.seconds / 60, gigabytes=LIMITS.size / 1024**3)
    return str(error)
