/* From the client to the session: its messages. Every data frame is activity. */
#include "session/state.h"

bool session_message(struct channel *ch, enum ws_opcode op, const unsigned char *data, size_t len)
{
    struct session *s = channel_user(ch);
    if (!s)
        return true;
    CHECK_MAGIC(s, SESSION_MAGIC);
    if (s->state >= SESSION_CLOSING)
        return true;
    s->last_data_ms = loop_now_ms(s->ss->env.loop);
    s->bytes += len;
    return op == WS_BINARY ? session_audio(s, data, len) : session_text(s, data, len);
}
