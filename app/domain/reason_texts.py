"""The sentences for reason codes and states: why, and the next valid action, in pt-BR and English.

Plain and calm, the same word for the same thing (console words); no names, numbers or times, which the screens add.
Each row: why (pt-BR), next action (pt-BR), why (English), next action (English).
"""

from typing import Final

Row = tuple[str, str, str, str]

_NOTHING: Final = ("Nada a fazer.", "Nothing to do.")
_FIX: Final = (
    "Corrija o pedido na origem e envie de novo com outra chave.",
    "Correct the request at its source and send it again with another key.",
)
_TALK: Final = (
    "Veja a situação atual, fale com a família e faça um pedido novo.",
    "Look at the current state, talk to the family and make a new request.",
)
_GRANT: Final = (
    "Peça à gestão para registrar a permissão. Nada foi informado ao contato.",
    "Ask management to register the permission. The contact was told nothing.",
)
_WAIT: Final = (
    "Aguarde: o pedido sai sozinho, na ordem. Se for urgente, assuma a conversa ou ligue para a família.",
    "Wait: the request leaves by itself, in its order. If it is urgent, take over or call the family.",
)


def _row(pt: str, en: str, action: tuple[str, str]) -> Row:
    return (pt, action[0], en, action[1])


REASONS: Final[dict[str, Row]] = {
    "applied": _row("Feito.", "Done.", _NOTHING),
    "replayed_within_fences": _row(
        "Feito com atraso, dentro do prazo e com as versões certas.",
        "Done late, within its time limit and on the right versions.",
        _NOTHING,
    ),
    # intake
    "not_an_object": _row(
        "O item recebido não é um pedido que se possa ler.", "The item received is not a readable request.", _FIX
    ),
    "bad_field": _row("Um campo do pedido está errado.", "A field of the request is wrong.", _FIX),
    "missing_contact_id": _row("O pedido não diz de qual contato é.", "The request does not say which contact it is from.", _FIX),
    "not_storable": (
        "O banco de dados recusou o item como veio. Ele foi guardado em forma de texto.",
        "Veja o conteúdo, fale com a família se for preciso e avise o suporte.",
        "The database refused the item as it came. It was kept as text.",
        "Look at the content, talk to the family if needed, and tell support.",
    ),
    "command_id_reused": _row(
        "O número do pedido já pertence a outro pedido.", "The command id belongs to another command already.", _FIX
    ),
    "queue_overflow": (
        "A fila da clínica estava cheia. O item foi guardado e não entrou na fila.",
        "Quando a fila baixar, reenvie o item pela revisão manual.",
        "The clinic's queue was full. The item was kept and did not enter the queue.",
        "Once the queue is shorter, send the item again from manual review.",
    ),
    "unknown_shape": (
        "O provedor enviou algo que não sabemos ler. Foi guardado como chegou.",
        "Veja o conteúdo e, se for uma mensagem, fale com a família.",
        "The provider sent something that we cannot read. It was kept as it came.",
        "Look at the content and, if it is a message, talk to the family.",
    ),
    "other_number": (
        "A mensagem foi enviada para um número que não é o desta clínica nas configurações. Foi guardada como chegou.",
        "Confira o número da clínica nas configurações, leia a mensagem e fale com a família.",
        "The message was sent to a number that is not this clinic's in the settings. It was kept as it came.",
        "Check the clinic's number in the settings, read the message and talk to the family.",
    ),
    "missing_message_id": (
        "A mensagem chegou sem identificação do provedor. Foi guardada como chegou.",
        "Leia a mensagem e fale com a família.",
        "The message came without the provider's id. It was kept as it came.",
        "Read the message and talk to the family.",
    ),
    "missing_phone": (
        "A mensagem chegou sem o telefone de quem escreveu.",
        "Procure a família no aplicativo do provedor e responda por lá.",
        "The message came without the phone of whoever wrote it.",
        "Find the family in the provider's app and answer there.",
    ),
    "provider_error": (
        "O provedor de mensagens informou um erro dele.",
        "Veja o conteúdo e confira o canal com o provedor.",
        "The messaging provider reported an error of its own.",
        "Look at the content and check the channel with the provider.",
    ),
    "delivery_unknown": (
        "Não sabemos se a mensagem chegou à família: o provedor não respondeu. Ela não será enviada de novo sozinha.",
        "Confira a conversa no provedor e, se preciso, escreva ou ligue para a família.",
        "We do not know whether the message reached the family: the provider did not answer. It will not be sent again by itself.",
        "Check the conversation at the provider and, if needed, write to or call the family.",
    ),
    "delivery_refused": (
        "O provedor recusou a mensagem. Nada foi informado ao contato.",
        "Confira o canal e o telefone e fale com a família por outro meio.",
        "The provider refused the message. The contact was told nothing.",
        "Check the channel and the phone and reach the family another way.",
    ),
    "delivery_given_up": (
        "A mensagem não saiu depois de várias tentativas. Nada foi informado ao contato.",
        "Confira o canal e fale com a família por outro meio.",
        "The message did not leave after several attempts. The contact was told nothing.",
        "Check the channel and reach the family another way.",
    ),
    "delivery_failed": (
        "O provedor aceitou a mensagem, mas não conseguiu entregar.",
        "Ligue para a família ou use outro meio.",
        "The provider took the message but could not deliver it.",
        "Call the family or reach them another way.",
    ),
    "template_required": (
        "A família não escreve há mais de 24 horas: o WhatsApp só aceita um modelo aprovado, e não há um configurado.",
        "Ligue para a família, ou configure o modelo de mensagem da clínica.",
        "The family has not written for more than 24 hours: WhatsApp takes only an approved template, and none is configured.",
        "Call the family, or configure the clinic's message template.",
    ),
    "contact_without_phone": (
        "O contato não tem telefone registrado. Nada foi informado a ele.",
        "Registre o telefone do contato e fale com a família.",
        "The contact has no phone on record. They were told nothing.",
        "Record the contact's phone and talk to the family.",
    ),
    "already_accepted": _row("Este item já tinha sido recebido.", "This item had been received already.", _NOTHING),
    # step 1
    "missing_timestamp": _row("O pedido não diz quando foi feito.", "The request does not say when it was made.", _FIX),
    "missing_version_metadata": _row(
        "O pedido não diz em quais versões se baseou.", "The request does not say on which versions it was decided.", _FIX
    ),
    "unknown_intent": _row(
        "Não há prazo definido para este tipo de pedido.", "There is no time limit for this type of request.", _TALK
    ),
    "missing_patient": _row("Falta dizer para qual paciente é.", "The patient is missing.", _FIX),
    "missing_therapist": _row("Falta dizer com qual terapeuta é.", "The therapist is missing.", _FIX),
    "missing_appointment": _row("Falta dizer qual é a consulta.", "The appointment is missing.", _FIX),
    "bad_identifier": _row("Um identificador do pedido não é válido.", "An identifier in the request is not valid.", _FIX),
    "bad_time": _row("Um horário do pedido não pode ser lido.", "A time in the request cannot be read.", _FIX),
    "bad_interval": _row(
        "O fim precisa vir depois do início, no máximo 12 horas depois.",
        "The end must come after the start, by at most 12 hours.",
        _FIX,
    ),
    "bad_answer": _row("A resposta precisa ser sim ou não.", "The answer must be yes or no.", _FIX),
    "bad_text": _row("O texto está vazio, longo demais ou não é texto.", "The text is empty, too long or no text.", _FIX),
    # step 2
    "same_key_same_request": _row("O mesmo pedido já tinha chegado antes.", "The same request had arrived before.", _NOTHING),
    "idempotency_key_reused": _row(
        "A mesma chave já foi usada em outro pedido.", "The same key was used for another request.", _FIX
    ),
    # step 3
    "commit_order_passed": _row(
        "A vez deste número já passou para este contato.", "The turn of this number has passed for this contact.", _TALK
    ),
    "commit_order_taken": _row(
        "Este número já pertence a outro pedido do contato.", "This number belongs to another request of the contact.", _FIX
    ),
    "commit_order_too_far": _row(
        "O número está longe demais do último número do contato.", "The number is too far beyond the contact's last one.", _FIX
    ),
    "no_place_in_lane": _row("O pedido não recebeu lugar na fila do contato.", "The request got no place in the lane.", _FIX),
    "previous_waiting": (
        "O pedido anterior deste contato também espera.",
        "Aguarde: os pedidos deste contato saem em ordem, assim que o que falta chegar.",
        "The request before it in this contact's order is waiting too.",
        "Wait: this contact's requests leave in order as soon as the missing one arrives.",
    ),
    "previous_missing": (
        "Espera um pedido anterior deste contato que ainda não chegou.",
        "Aguarde o anterior ou, com motivo, pule o lugar que falta.",
        "Waits for an earlier request of this contact that has not arrived.",
        "Wait for the earlier one or, with a reason, skip the missing place.",
    ),
    "waited_too_long": _row(
        "Esperou demais por um pedido anterior que não chegou.", "Waited too long for an earlier request that did not come.", _TALK
    ),
    "place_never_filled": (
        "O pedido com este número nunca chegou.",
        "Confira na origem o que se perdeu e fale com a família.",
        "The request with this number never arrived.",
        "Check at the source what was lost and talk to the family.",
    ),
    "day_before_unconfirmed": (
        "A família não confirmou a consulta de amanhã.",
        "Ligue para a família e registre o resultado.",
        "The family has not confirmed tomorrow's visit.",
        "Call the family and note what came of it.",
    ),
    "skipped_by_person": (
        "Uma pessoa pulou este lugar, com motivo registrado.",
        "Cumpra a obrigação aberta na revisão manual.",
        "A person skipped this place, with a recorded reason.",
        "Fulfil the obligation that is open in manual review.",
    ),
    # step 4
    "mode_unreadable": _row(
        "Não foi possível ler o modo do sistema; por segurança, nada é feito.",
        "The system's mode could not be read; to be safe, nothing is done.",
        _WAIT,
    ),
    "safe_mode_active": (
        "Não dá para fazer agora: modo seguro ligado.",
        "Assuma a conversa ou ligue para a família. Quem libera: superadmin.",
        "Not possible now: safe mode is on.",
        "Take over the conversation or call the family. Released by: superadmin.",
    ),
    "contingency_active": (
        "Não dá para fazer agora: contingência ligada.",
        "Assuma a conversa ou ligue para a família. Quem libera: a gestão, pelo reenvio.",
        "Not possible now: contingency is on.",
        "Take over the conversation or call the family. Released by: management, through replay.",
    ),
    "behind_parked": _row(
        "Está atrás de um pedido parado do mesmo contato.", "It is behind a parked request of the same contact.", _WAIT
    ),
    "waits_for_drain": _row(
        "A parada acabou; os pedidos parados saem aos poucos, e este espera a vez.",
        "The stop is over; parked requests leave little by little, and this one waits for its turn.",
        _WAIT,
    ),
    "replay_stopped": _row(
        "O reenvio deste contato parou: um pedido anterior dele terminou diferente da simulação.",
        "The replay of this contact stopped: an earlier request of it ended differently than the dry run said.",
        _TALK,
    ),
    "replay_cancelled": _row(
        "O reenvio foi cancelado antes da vez deste pedido.", "The replay was cancelled before this request's turn.", _TALK
    ),
    "fallback_throttled": _row(
        "A trava reserva chegou ao limite; o pedido está parado.",
        "The fallback lock reached its limit; the request is parked.",
        _WAIT,
    ),
    # step 5
    "ttl_expired": (
        "O prazo do pedido já tinha passado.",
        "Fale com a família antes de refazer.",
        "The request's time limit had passed.",
        "Talk to the family before doing it again.",
    ),
    "ttl_valid": _row("O pedido ainda está no prazo.", "The request is still within its time limit.", _NOTHING),
    "versions_match": _row("As versões do pedido ainda valem.", "The request's versions are still current.", _NOTHING),
    "as_of_stale": _row(
        "A consulta mudou depois do momento em que o pedido foi decidido.",
        "The appointment changed after the moment on which the request was decided.",
        _TALK,
    ),
    # step 6
    "conversation_version_stale": (
        "A família escreveu de novo depois que o pedido foi decidido.",
        "Leia a última mensagem e faça um pedido novo.",
        "The family wrote again after the request was decided.",
        "Read the last message and make a new request.",
    ),
    "entity_missing": _row("A consulta não existe.", "The appointment does not exist.", _TALK),
    "entity_exists": _row("Já existe uma consulta com este número.", "An appointment of this id exists already.", _TALK),
    "entity_version_stale": _row(
        "A consulta mudou depois que o pedido foi decidido.", "The appointment changed after the request was decided.", _TALK
    ),
    "entity_not_active": _row("A consulta já estava cancelada.", "The appointment was cancelled already.", _TALK),
    # step 7
    "takeover_active": (
        "Uma pessoa está com esta conversa; o robô não faz nada.",
        "Responda à família ou devolva a conversa ao robô.",
        "A person has this conversation; the AI does nothing.",
        "Answer the family or give the conversation back to the AI.",
    ),
    "takeover_already_active": (
        "A conversa já está com uma pessoa.",
        "Responda à família na conversa assumida.",
        "A person has the conversation already.",
        "Answer the family in the conversation that was taken over.",
    ),
    # step 8
    "patient_mismatch": _row(
        "O paciente do pedido não é o da consulta.", "The patient of the request is not the appointment's.", _FIX
    ),
    "patient_unknown": (
        "O paciente não está cadastrado.",
        "Peça à gestão para cadastrar o paciente e a permissão. Nada foi informado ao contato.",
        "The patient is not registered.",
        "Ask management to register the patient and the permission. The contact was told nothing.",
    ),
    "no_guardian_link": _row(
        "Este contato não tem permissão registrada para tratar de consultas desta criança.",
        "This contact has no registered permission for this child's appointments.",
        _GRANT,
    ),
    "guardian_not_verified": _row(
        "A permissão deste contato ainda não foi verificada.", "This contact's permission has not been verified.", _GRANT
    ),
    "guardian_revoked": _row("A permissão deste contato foi retirada.", "This contact's permission was revoked.", _GRANT),
    "permission_missing": _row(
        "A permissão deste contato não inclui este tipo de pedido.",
        "This contact's permission does not include this type of request.",
        _GRANT,
    ),
    "permission_granted": _row(
        "O contato tem permissão registrada e verificada.", "The contact has a registered, verified permission.", _NOTHING
    ),
    "action_not_allowed": _row("Nenhuma regra permite este tipo de ação.", "No rule permits this type of action.", _GRANT),
    "guardian_version_stale": _row(
        "As permissões do contato mudaram depois que o pedido foi decidido.",
        "The contact's permissions changed after the request was decided.",
        _TALK,
    ),
    # step 9
    "not_confirmed": (
        "Falta a confirmação explícita.",
        "Peça que a família responda CONFIRMAR.",
        "The explicit confirmation is missing.",
        "Ask the family to answer CONFIRMAR.",
    ),
    # step 10
    "slot_taken": (
        "O horário já está ocupado.",
        "Ofereça à família um dos horários livres.",
        "The slot is taken.",
        "Offer the family one of the free times.",
    ),
    "therapist_unknown": _row("O terapeuta não está cadastrado.", "The therapist is not registered.", _FIX),
    # failures
    "unexpected_failure": (
        "Uma falha inesperada impediu a decisão. Nada foi feito.",
        "Trate o pedido à mão; a equipe técnica vê a falha pelo código de correlação.",
        "An unexpected failure prevented the decision. Nothing was done.",
        "Handle the request by hand; the technical team finds the failure by its correlation id.",
    ),
    "locks_unavailable": _row(
        "Nenhuma trava está disponível; por segurança, nada é feito. O pedido está guardado.",
        "No lock is available; to be safe, nothing is done. The request is kept.",
        _WAIT,
    ),
}

STATES: Final[dict[str, Row]] = {
    "queued_for_dispatch": _row("Está na fila.", "It is in the queue.", _WAIT),
    "blocked_commit_order_violation": _row("Veio fora da ordem do contato.", "It came out of the contact's order.", _TALK),
    "invalid_payload_manual": _row("O pedido não pode ser usado como está.", "The request cannot be used as it is.", _FIX),
    "dead_letter": REASONS["queue_overflow"],
    "committed_causal": REASONS["applied"],
    "waiting_previous_commit": REASONS["previous_missing"],
    "blocked_conflict": _row("Entra em conflito com outro pedido.", "It conflicts with another request.", _TALK),
    "manual_review_required": (
        "Precisa da decisão de uma pessoa.",
        "Trate o pedido na revisão manual.",
        "It needs a person's decision.",
        "Handle the request in manual review.",
    ),
    "applied_once": REASONS["applied"],
    "duplicate_ignored": REASONS["same_key_same_request"],
    "version_conflict_blocked": _row(
        "A situação mudou depois que o pedido foi decidido.", "The situation changed after the request was decided.", _TALK
    ),
    "ttl_valid_ready_for_replay": REASONS["ttl_valid"],
    "expired_manual": REASONS["ttl_expired"],
    "invalid_event_manual": _row(
        "Faltam o momento ou as versões do pedido.", "The time or the versions of the request are missing.", _FIX
    ),
    "version_match_ready_for_replay": REASONS["versions_match"],
    "conflict_blocked": _row(
        "A situação mudou enquanto o pedido estava parado.", "The situation changed while the request was parked.", _TALK
    ),
    "replayed": REASONS["replayed_within_fences"],
    "blocked_guardian_denied": REASONS["no_guardian_link"],
    "blocked_unconfirmed": REASONS["not_confirmed"],
    "blocked_takeover_active": REASONS["takeover_active"],
    "blocked_agenda_conflict": REASONS["slot_taken"],
    "pending_safe_mode": REASONS["safe_mode_active"],
    "pending_contingency": REASONS["contingency_active"],
    "lock_acquire_failed_safe_block": REASONS["locks_unavailable"],
    "processed": _row("A mensagem foi lida e encaminhada.", "The message was read and handed on.", _NOTHING),
}
