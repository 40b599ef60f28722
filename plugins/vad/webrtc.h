/*
 * WebRTC's voice activity detector, as far as it is used here. The library exports these C functions and ships no
 * header for them; the prototypes are those of its release 0.3, and configure links against each.
 */
#ifndef OMID_PLUGINS_VAD_WEBRTC_H
#define OMID_PLUGINS_VAD_WEBRTC_H

#include <stddef.h>
#include <stdint.h>

typedef struct WebRtcVadInst VadInst;

VadInst *WebRtcVad_Create(void);
void WebRtcVad_Free(VadInst *vad);
int WebRtcVad_Init(VadInst *vad);               /* 0: ready, in mode 0 */
int WebRtcVad_set_mode(VadInst *vad, int mode); /* 0..3, the higher the less is called speech; 0: done */
/* A frame of 10, 20 or 30 ms at 8, 16, 32 or 48 kHz. 1: voiced, 0: not, -1: error. */
int WebRtcVad_Process(VadInst *vad, int rate, const int16_t *frame, size_t samples);
int WebRtcVad_ValidRateAndFrameLength(int rate, size_t samples); /* 0: valid */

#endif
