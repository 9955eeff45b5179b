"""Asterisk: the prompts of a telephone exchange, spoken by one voice a language.

Source: the Debian packages asterisk-core-sounds-ru, -fr, -it, -es (Creative Commons).
"""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from ..normalisers import normalise
from .items import Item

LANGUAGES = ("ru", "fr", "it", "es")

PACKAGE = "asterisk-core-sounds-{}"  # with the texts; the sound is in PACKAGE-wav

FEWEST_WORDS = 3

# ---- which prompts are sentences

# Names of single letters, numbers, pauses and kinds of channels ("SIP").
NO_SENTENCE = re.compile(r"(?:digits|letters|phonetic|silence)/|spy-")

NOTE = re.compile(r"[\[\](){}<>]")  # what is to be heard, or how it is to be said

DIGIT = re.compile(r"\d")

ADDRESS = re.compile(r"\bwww\.")

LOST_LETTER = re.compile(r"\w\?\w|\?\s+[a-zà-ÿ]")  # "?" in the place of an accented letter

OTHER_NAME = re.compile(r"\b\w+(?:-\w+)+:")  # of the next prompt, where a line break is missing

REASONS = {  # pattern in the text -> why the prompt is dropped
    NOTE: "text with a note in brackets",
    DIGIT: "text with digits",
    ADDRESS: "text with an address",
    LOST_LETTER: "text with a lost letter",
    OTHER_NAME: "text of two prompts",
}

# ---- typing errors

CORRECTIONS: dict[str, dict[str, str]] = {  # language -> typed -> meant, in this order
    "ru": {
        "что бы": "чтобы",
        "чтобы бы": "чтобы",
        "завршить": "завершить",
        "взёздочка": "звездочка",
        "за тем": "затем",
        "не известен": "неизвестен",
        "неопределен": "не определен",
        "неразрешен": "не разрешен",
        "по-этому": "поэтому",
    },
    "fr": {
        "présentemnet": "présentement",
        "presentement": "présentement",
        "avez étez": "avez été",
        "ont étés": "ont été",
        "etait": "était",
        "etes": "êtes",
        "etre": "être",
        "a ete": "a été",
        "verouillée": "verrouillée",
        "vérouillée": "verrouillée",
        "vérouiller": "verrouiller",
        "déverouillée": "déverrouillée",
        "dévérouillée": "déverrouillée",
        "seul les": "seuls les",
        "connection": "connexion",
        "démontration": "démonstration",
        "des information": "des informations",
        "et et": "et",
        "votre votre": "votre",
        "mise a": "mise à",
        "essayer a": "essayer à",
        "a l'extension": "à l'extension",
        "premieres": "premières",
        "problemes": "problèmes",
        "numero": "numéro",
        "ecouter": "écouter",
        "reessayer": "réessayer",
        "re-enregistrer": "réenregistrer",
        "desole": "désolé",
        "desolé": "désolé",
        "somme désolé": "sommes désolés",
        "occupes": "occupés",
        "simultane": "simultanée",
        "abregée": "abrégée",
        "avez accédez": "avez accédé",
        "avez entrer": "avez entré",
        "être rappler": "être rappelé",
        "appellant": "appelant",
        "l'arrivé": "l'arrivée",
        "j'essai": "j'essaie",
        "j'établi": "j'établis",
        "acceuil": "accueil",
        "boite": "boîte",
        "status": "statut",
        "veuillez composez": "veuillez composer",
        "veuillez recomposez": "veuillez recomposer",
        "veuillez demeurez": "veuillez demeurer",
        "veuillez entrez": "veuillez entrer",
        "veuillez essayez": "veuillez essayer",
        "veuillez laissez": "veuillez laisser",
        "exact appuyer": "exact appuyez",
        "nom et appuyer": "nom et appuyez",
        "message, appuyer": "message, appuyez",
    },
    "it": {
        "perpiacere": "per piacere",
        "cassella": "casella",
        "e' in uso": "è in uso",
        "e' impostato": "è impostato",
    },
    "es": {
        "autenticacion": "autenticación",
        "busqueda": "búsqueda",
        "configuracion": "configuración",
        "conexion": "conexión",
        "demonstracion": "demostración",
        "demostracion": "demostración",
        "duracion": "duración",
        "extension": "extensión",
        "grabacion": "grabación",
        "informacion": "información",
        "introduccion": "introducción",
        "opcion": "opción",
        "reproduccion": "reproducción",
        "ya esta": "ya está",
        "esta a punto": "está a punto",
        "esta fuera": "está fuera",
        "esta libre": "está libre",
        "esta terriblemente": "está terriblemente",
        "esta usted": "está usted",
        "aun escucharas": "aún escucharás",
        "esten": "estén",
        "comenzara": "comenzará",
        "comprendi": "comprendí",
        "guiare": "guiaré",
        "intentare": "intentaré",
        "logre": "logré",
        "sera": "será",
        "tecleo": "tecleó",
        "unira": "unirá",
        "uniran": "unirán",
        "no se quien": "no sé quién",
        "en que carpeta": "en qué carpeta",
        "a que carpeta": "a qué carpeta",
        "mas": "más",
        "ó": "o",
        "atravez": "a través",
        "buzon": "buzón",
        "codigo": "código",
        "contrasena": "contraseña",
        "contrasenas": "contraseñas",
        "contrasenia": "contraseña",
        "defeto": "defecto",
        "despues": "después",
        "entidade": "entidades",
        "estandar": "estándar",
        "ingese": "ingrese",
        "introdusca": "introduzca",
        "invalida": "inválida",
        "invalido": "inválido",
        "lider": "líder",
        "linea": "línea",
        "menu": "menú",
        "mesaje": "mensaje",
        "minimos": "mínimos",
        "numerico": "numérico",
        "numero": "número",
        "proposito": "propósito",
        "proximo": "próximo",
        "re-enviado": "reenviado",
        "telefonico": "telefónico",
        "telefono": "teléfono",
        "unica": "única",
        "util": "útil",
        "vacias": "vacías",
        "valido": "válido",
    },
}

YO = str.maketrans("ёЁ", "еЕ")  # the Russian texts have both; Whisper mostly writes е


def correct(text: str, language: str) -> str:
    """Return a text without the typing errors of CORRECTIONS, capitals as they are, е for ё.

    Where a text says what was said in other letters ("numero" for "número"), every system would
    have the same wrong words counted against it.
    """
    for typed, meant in CORRECTIONS[language].items():
        if typed in text.lower():
            pattern = re.compile(rf"\b{re.escape(typed)}\b", re.IGNORECASE)
            text = pattern.sub(lambda match, meant=meant: _like(match[0], meant), text)
    return text.translate(YO)


def _like(typed: str, meant: str) -> str:
    """Return `meant` with a capital where `typed` begins with one."""
    return meant[0].upper() + meant[1:] if typed[0].isupper() else meant


# ---- the corpus


def prompts(content: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each prompt in a list of prompts, as they are written there.

    Args:
        content: Lines `conf-locked: This conference is locked.`; those that begin with ";" are
            comments.
    """
    for line in content.lstrip("\ufeff").splitlines():
        name, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            yield name.strip(), text.strip()


def why_not(name: str, text: str) -> str:
    """Return why a prompt is no sentence to be tested on, or ""."""
    if NO_SENTENCE.match(name):
        return "letter, number or name of a channel"
    for pattern, reason in REASONS.items():
        if pattern.search(text):
            return reason
    if len(normalise(text).split()) < FEWEST_WORDS:
        return f"fewer than {FEWEST_WORDS} words"
    return ""


def group(name: str) -> str:
    """Return what a prompt belongs to: its folder, or else the first word of its name."""
    folder, slash, _ = name.partition("/")
    return folder if slash else name.split("-")[0]


def read_texts(folder: Path, language: str) -> str:
    """Return the list of prompts of a language.

    Args:
        folder: `asterisk`, beside the folder `doc` of the packages.
        language: Code of the language.

    Raises:
        FileNotFoundError: If there is no such list. Debian in containers often leaves out `doc`.
    """
    package = PACKAGE.format(language)
    path = folder.parent / "doc" / package / f"core-sounds-{language}.txt"
    packed = path.with_name(f"{path.name}.gz")
    if packed.is_file():
        return gzip.decompress(packed.read_bytes()).decode("utf-8", "replace")
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    raise FileNotFoundError(
        f"no {packed}: the package {package} is missing, or was installed without its documents"
    )


def asterisk_items(folder: Path, language: str) -> list[Item]:
    """Return every prompt of a language, spoken or not, in the order of the list.

    Sentences of at least FEWEST_WORDS words are in the split "test", the others in none. Of two
    prompts with the same name the later one counts.

    Args:
        folder: `asterisk`, with the folder `sounds`.
        language: Code of the language.

    Raises:
        FileNotFoundError: If there is no list of prompts, or no folder with their sound.
    """
    content = read_texts(folder, language)
    places = sorted(folder.glob(f"sounds/{language}_*"))
    if not places:
        raise FileNotFoundError(
            f"no sounds/{language}_* under {folder}: the package {PACKAGE.format(language)}-wav "
            "is missing or incomplete"
        )

    items = {}
    for name, typed in prompts(content):
        text = correct(typed, language)
        reason = why_not(name, text)
        sounds = [place / f"{name}.wav" for place in places]
        item = Item(
            id=f"asterisk/{name}",
            sound=next((sound for sound in sounds if sound.is_file()), None),
            text=text,
            language=language,
            speaker=f"asterisk-{language}",
            room_or_category=group(name),
            translation_en="",
            split=None if reason else "test",
            reason=reason,
        )
        items[item.id] = item
    return list(items.values())
