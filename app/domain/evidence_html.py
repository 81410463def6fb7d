"""The page inside an evidence pack: the story for people, in pt-BR and English, without script, server or other files."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

from app.domain.envelopes import parse_time
from app.domain.evidence_kinds import EvidenceKind
from app.domain.evidence_words import local_time

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem;color:#1b1f24;background:#fff}"
    "h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%}"
    "th,td{text-align:left;vertical-align:top;padding:.4rem .6rem .4rem 0;border-bottom:1px solid #d0d5db}"
    "td:first-child,th:first-child{white-space:nowrap;font-variant-numeric:tabular-nums}"
    "dt{color:#57606a}dd{margin:0 0 .5rem;overflow-wrap:anywhere}code{font-size:.85em;overflow-wrap:anywhere}"
    "dl{display:grid;grid-template-columns:minmax(8rem,14rem) 1fr;gap:.1rem 1rem}"
    "@media(max-width:600px){dl{display:block}table,thead,tbody,tr,th,td{display:block}th{display:none}}"
    "@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#16191d}th,td{border-color:#3a4048}dt{color:#9aa4ae}a{color:#8ab4f8}}"
    "@media print{body{color:#000;background:#fff}nav{display:none}}"
)

_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "title": ("Prova", "Evidence"),
    "lead": (
        "Gerada pelo KoraOS Console. Esta página conta a história; os arquivos ao lado trazem cada linha, e o manifesto assinado "
        "prova que nada mudou (kora evidence verify).",
        "Made by KoraOS Console. This page tells the story; the files beside it hold every row, and the signed manifest "
        "proves that nothing changed (kora evidence verify).",
    ),
    "redacted": (
        "Nomes, telefones e textos foram ocultados. Identificadores, horários e estados estão inteiros.",
        "Names, phone numbers and texts are hidden. Ids, times and states are whole.",
    ),
    "whole": (
        "Prova completa: contém dados pessoais. Guarde como prontuário.",
        "Full pack: it holds personal data. Keep it like a medical record.",
    ),
    "about": ("Sobre", "About"),
    "subject": ("Assunto", "Subject"),
    "flow": ("Fluxo", "Flow"),
    "correlation": ("Correlação", "Correlation id"),
    "state": ("Como terminou", "How it ended"),
    "open": ("ainda não terminou", "it has not ended yet"),
    "result": ("Prova", "Pack"),
    "missing": ("Falta", "Missing"),
    "times": ("Horários em", "Times in"),
    "story": ("O que aconteceu, em ordem", "What happened, in order"),
    "when": ("Quando", "When"),
    "what": ("O que", "What"),
    "alerts": ("Alertas", "Alerts"),
    "ledger": ("Registro", "Ledger"),
    "numbers": ("Números", "Numbers"),
    "none": ("nenhum", "none"),
    "cut": ("Esta prova não traz todas as linhas de", "This pack does not hold every row of"),
}

_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    EvidenceKind.FLOW: ("um fluxo", "one flow"),
    EvidenceKind.CONTACT: ("um contato", "one contact"),
    EvidenceKind.ALERT: ("um alerta", "one alert"),
    EvidenceKind.SAFE_MODE: ("um período de modo seguro", "one stay in safe mode"),
    EvidenceKind.REPLAY: ("um reenvio", "one replay"),
    EvidenceKind.TAKEOVER: ("um atendimento", "one takeover"),
    EvidenceKind.DRILL: ("uma simulação de falha", "one failure drill"),
    EvidenceKind.DEFERRED: ("um risco adiado", "one deferred risk"),
}


def page(document: Mapping[str, Any], *, result: str, missing: Iterable[str], is_redacted: bool) -> str:
    """The whole page of a pack (redacted or full document)."""
    halves = "".join(_half(document, i, result, tuple(missing), is_redacted) for i in (0, 1))
    return (
        '<!doctype html>\n<html lang="pt-BR">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(_WORDS['title'][0])} {escape(str(document['subject']))}</title><style>{_STYLE}</style></head>\n<body>\n"
        '<nav><a href="#pt">Português</a> · <a href="#en" lang="en">English</a></nav>\n'
        f"{halves}</body>\n</html>\n"
    )


def _half(document: Mapping[str, Any], i: int, result: str, missing: tuple[str, ...], is_redacted: bool) -> str:
    words = {name: pair[i] for name, pair in _WORDS.items()}
    lang, mark = ("pt-BR", "pt") if i == 0 else ("en", "en")
    facts = [
        (words["about"], _KINDS[document["kind"]][i]),
        (words["subject"], document["subject"]),
        (words["flow"], ", ".join(document["flows"])),
        (words["correlation"], document["correlation_id"]),
        (words["state"], document["terminal_state"] or words["open"]),
        (words["result"], result),
        *([(words["missing"], ", ".join(missing))] if missing else []),
        (words["times"], document["timezone"]),
    ]
    cut = f"<p>{escape(words['cut'])}: {escape(', '.join(document['cut']))}.</p>" if document["cut"] else ""
    return (
        f'<section id="{mark}" lang="{lang}">\n<h1>{escape(words["title"])}: {escape(_KINDS[document["kind"]][i])}</h1>\n'
        f"<p>{escape(words['lead'])}</p>\n<p>{escape(words['redacted' if is_redacted else 'whole'])}</p>\n{_list(facts)}{cut}"
        f"<h2>{escape(words['story'])}</h2>\n{_story(document, i, words)}"
        f"<h2>{escape(words['alerts'])}</h2>\n{_alerts(document, words)}"
        f"<h2>{escape(words['ledger'])}</h2>\n{_ledger(document, words)}"
        f"<h2>{escape(words['numbers'])}</h2>\n{_numbers(document, words)}</section>\n"
    )


def _list(facts: Iterable[tuple[str, Any]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts) + "</dl>\n"


def _story(document: Mapping[str, Any], i: int, words: Mapping[str, str]) -> str:
    name = "en" if i else "pt_BR"
    rows = [[_moment(row["at"], document["timezone"]), row["flow_id"], _told(row, name)] for row in document["timeline"]]
    return _table((words["when"], words["flow"], words["what"]), rows, words)


def _told(row: Mapping[str, Any], name: str) -> str:
    said = row.get("text")
    return f"{row[name]} «{said}»" if said else str(row[name])


def _moment(text: str | None, timezone: str) -> str:
    """Local date and time with its seconds, and the same moment in UTC."""
    if text is None:
        return "-"
    moment = parse_time(text)
    return f"{local_time(moment, timezone)} ({moment:%H:%M:%S}Z)"


def _alerts(document: Mapping[str, Any], words: Mapping[str, str]) -> str:
    rows = [
        [
            _moment(a["raised_at"], document["timezone"]),
            f"{a['severity']} {a['trigger']}",
            f"{a['summary']} ({a['result'] or a['status']})",
        ]
        for a in document["alerts"]
    ]
    return _table((words["when"], words["alerts"], words["what"]), rows, words)


def _ledger(document: Mapping[str, Any], words: Mapping[str, str]) -> str:
    rows = [
        [
            _moment(e["committed_at"], document["timezone"]),
            f"{e['contact_id']} {e['commit_order']}",
            f"{e['result']} ({e['reason']}) {e['hash']}",
        ]
        for e in document["ledger"]
    ]
    return _table((words["when"], words["ledger"], words["what"]), rows, words)


def _numbers(document: Mapping[str, Any], words: Mapping[str, str]) -> str:
    rows = [[str(m["metric"]), str(m["value"]), str(m.get("of", ""))] for m in document["metrics"] or ()]
    return _table((words["numbers"], "", ""), rows, words)


def _table(heads: Iterable[str], rows: list[list[str]], words: Mapping[str, str]) -> str:
    if not rows:
        return f"<p>{escape(words['none'])}</p>\n"
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>\n"
