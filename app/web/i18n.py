"""Languages of the screens: pt-BR (default) and English, from the `.po` files, compiled in memory at start.

Message ids are plain English. One Jinja environment per language, so nothing that is rendered can mix two; macros and
fragments see the language of their environment. `template_config` is what the application mounts: a template that it renders
(sign-in, error pages) gets the language and theme of the request.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import Translations
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from jinja2 import TemplateNotFound as JinjaNotFound
from litestar import Request
from litestar.exceptions import TemplateNotFoundException
from litestar.template import TemplateConfig, TemplateEngineProtocol
from markupsafe import Markup

ROOT: Final = Path(__file__).resolve().parents[2]
TEMPLATES: Final = ROOT / "templates"
STATIC: Final = ROOT / "static"
CATALOGS: Final = ROOT / "locale"

DEFAULT_LOCALE: Final = "pt_BR"
LOCALES: Final = ("pt_BR", "en")
LANGUAGE_NAMES: Final[Mapping[str, str]] = {"pt_BR": "Português (Brasil)", "en": "English"}
THEMES: Final = ("auto", "light", "dark")
LANGUAGE_COOKIE: Final = "kora_lang"

AnyRequest = Request[Any, Any, Any]


def mark(message: str) -> str:
    """Name a message for the catalogs where it is written down; it is translated where it is shown."""
    return message


def catalog_file(locale: str) -> Path:
    """The `.po` file of a language."""
    return CATALOGS / locale / "LC_MESSAGES" / "messages.po"


@lru_cache(maxsize=len(LOCALES))
def translations(locale: str) -> Translations:
    """The compiled catalog of a language."""
    with catalog_file(locale).open("rb") as file:
        catalog = read_po(file, locale=locale)
    compiled = io.BytesIO()
    write_mo(compiled, catalog)
    compiled.seek(0)
    return Translations(compiled)


def language_tag(locale: str) -> str:
    """`pt-BR` of `pt_BR`, for `lang` attributes."""
    return locale.replace("_", "-")


def negotiate(request: AnyRequest) -> str:
    """Language of a request: the person's own, else the browser's cookie, else what it accepts, else pt-BR."""
    chosen = getattr(request.scope.get("user"), "language", None) or request.cookies.get(LANGUAGE_COOKIE)
    if chosen in LOCALES:
        return chosen
    accepted: list[tuple[float, str]] = []
    for part in request.headers.get("accept-language", "").split(",")[:20]:
        tag, _, quality = part.strip().partition(";q=")
        accepted.append((_quality(quality), tag.strip().lower()))
    for _, tag in sorted(accepted, key=lambda entry: -entry[0]):
        for locale in LOCALES:
            if tag.split("-")[0] == locale.split("_")[0]:
                return locale
    return DEFAULT_LOCALE


def _quality(text: str) -> float:
    try:
        return float(text) if text else 1.0
    except ValueError:
        return 0.0


def theme_of(request: AnyRequest) -> str:
    """`auto`, `light` or `dark`."""
    theme = getattr(request.scope.get("user"), "theme", None)
    return theme if theme in THEMES else "auto"


# --- templates ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _digests() -> Callable[[str], str]:
    """Short content hashes of static files, computed once per file."""

    @lru_cache(maxsize=200)
    def digest(name: str) -> str:
        return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:10]

    return digest


def asset(name: str) -> str:
    """Address of a static file with its content's hash, so that browsers may keep it for ever."""
    return f"/static/{name}?v={_digests()(name)}"


def quoted(document: str) -> Markup:
    """JSON inside a single-quoted attribute: its own quotes stay as they are, which keeps pages small."""
    return Markup(document.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;"))  # noqa: S704  # escaped above


@lru_cache(maxsize=len(LOCALES))
def environment(locale: str) -> Environment:
    """The templates in one language: autoescaped, and an undefined name is an error."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    catalog = translations(locale)
    env.install_gettext_callables(catalog.gettext, catalog.ngettext, newstyle=True, pgettext=catalog.pgettext)  # type: ignore[attr-defined]
    env.policies["ext.i18n.trimmed"] = True
    env.filters["quoted"] = quoted
    env.globals |= {
        "asset": asset,
        "lang": language_tag(locale),
        "locale": locale,
        "language_names": LANGUAGE_NAMES,
        "themes": THEMES,
    }
    env.globals["ui"] = env.get_template("_macros/ui.html").module
    return env


class _Localized:
    """One template in the language of whatever request it is rendered for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def render(self, *args: Any, **context: Any) -> str:
        """The page; `request` in the context says the language."""
        values = dict(*args, **context)
        request: AnyRequest = values["request"]
        values.setdefault("theme", theme_of(request))
        return environment(negotiate(request)).get_template(self._name).render(values)


class LocalizedEngine(TemplateEngineProtocol[Any, Any]):
    """What the framework asks for templates."""

    def __init__(self, directory: Any = None, engine_instance: Any = None) -> None:
        self.callables: dict[str, Any] = {}

    def get_template(self, template_name: str) -> Any:
        """A template that finds its language when it is rendered. Raises TemplateNotFoundException."""
        try:
            environment(DEFAULT_LOCALE).get_template(template_name)
        except JinjaNotFound as error:
            raise TemplateNotFoundException(template_name=template_name) from error
        return _Localized(template_name)

    def render_string(self, template_string: str, context: Mapping[str, Any]) -> str:
        """A template given as text."""
        template: Template = environment(negotiate(context["request"])).from_string(template_string)
        return template.render(context)

    def register_template_callable(self, key: str, template_callable: Any) -> None:
        """Nothing of the framework's own is used in our templates; kept so that it may ask."""
        self.callables[key] = template_callable


def template_config() -> TemplateConfig[LocalizedEngine]:
    """What the application mounts."""
    return TemplateConfig(instance=LocalizedEngine())
