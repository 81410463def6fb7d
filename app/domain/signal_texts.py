"""What the alert of a signal says, in pt-BR: which signal, what was measured, and the limit it passed."""

from collections.abc import Mapping
from typing import Final

from app.domain.signals import Operator, Signal, SignalLevel, Threshold, Unit

NAMES: Final[Mapping[str, str]] = {
    "blocked_commit_order_violation": "Pedidos fora de ordem",
    "waiting_previous_commit_age": "Pedidos esperando o anterior",
    "version_conflict_blocked": "Pedidos com versão antiga",
    "expired_manual": "Pedidos vencidos",
    "conflict_blocked": "Pedidos em conflito no reenvio",
    "replay_manual_backlog": "Fila manual do reenvio",
    "replay_backlog": "Fila de reenvio",
    "no_ack_critical_alert": "Alerta crítico sem confirmação",
    "safe_mode_duration": "Duração do modo seguro",
    "safe_mode_reentry": "Volta ao modo seguro",
    "contingency_message_failure": "Mensagens de contingência que falharam",
    "ticket_open_latency": "Demora para abrir chamados",
    "correlation_id_coverage": "Pedidos com código de acompanhamento",
    "ack_to_enqueue_gap": "Mensagens recebidas que demoram a ser lidas",
    "takeover_sla_breach_rate": "Conversas assumidas fora do prazo",
    "redis_fallback_rate": "Travas fora do Redis",
    "fallback_db_lock_latency": "Demora das travas no banco",
    "evidence_pack_completeness": "Evidências completas",
    "evidence_pack_generation": "Demora para gerar evidências",
    "drill_result": "Simulação de falha",
}
METRICS: Final[Mapping[str, str]] = {
    "count": "quantidade",
    "age_p95_s": "espera p95",
    "backlog": "itens na fila",
    "rate": "taxa",
    "per_hour": "por hora",
    "oldest_unacknowledged_s": "sem confirmação há",
    "duration_s": "duração",
    "contingency_queue": "fila de contingência",
    "oldest_parked_s": "item parado há",
    "exits_without_checklist": "saídas sem a lista completa",
    "p95_s": "p95",
    "p95_ms": "p95",
    "coverage": "cobertura",
    "events": "mensagens em espera",
    "completeness": "completas",
    "recovery_s": "recuperação",
    "invalid_side_effects": "efeitos inválidos",
}
LEVELS: Final = {SignalLevel.WARNING: "atenção", SignalLevel.CRITICAL: "crítico"}


def summary(signal: Signal, level: SignalLevel, values: Mapping[str, float]) -> str:
    """One line, such as `Fila de reenvio, crítico: itens na fila 81 (limite: mais de 80).`, for the alert."""
    thresholds = signal.critical if level is SignalLevel.CRITICAL else signal.warning
    met = [_sentence(t, values[t.metric]) for t in thresholds if t.met(values)]
    return f"{NAMES[signal.name]}, {LEVELS[level]}: {'; '.join(met)}."


def _sentence(threshold: Threshold, value: float) -> str:
    words = {Operator.ABOVE: "mais de ", Operator.AT_LEAST: "", Operator.BELOW: "menos de "}[threshold.operator]
    name = METRICS[threshold.metric]
    return f"{name} {quantity(value, threshold.unit)} (limite: {words}{quantity(threshold.value, threshold.unit)})"


def quantity(value: float, unit: Unit) -> str:
    """A value with its unit, as people in Brazil write it."""
    if unit is Unit.RATIO:
        return f"{_number(value * 100)} %"
    if unit is Unit.SECONDS:
        return f"{_number(value / 60)} min" if value >= 60 else f"{_number(value)} s"
    return f"{_number(value)} ms" if unit is Unit.MILLISECONDS else _number(value)


def _number(value: float) -> str:
    return f"{round(value, 1):g}".replace(".", ",")
