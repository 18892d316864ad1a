/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of the hub over a connection, shared by the handlers of registry.watch and op.log. */
#ifndef BANGER_API_WATCH_H
#define BANGER_API_WATCH_H

#include "op/hub.h"
#include "rpc/dispatch.h"

/* The handler of registry.watch. */
int api_registry_watch(void *ctx, struct rpc_call *call, struct banger_error *err);

/* Send what the subscription gets until the peer goes away, the daemon stops, or, with ends_with_empty, an empty
 * text says that nothing follows. After rpc_stream_reply(). */
int watch_forward(struct rpc_call *call, struct hub_subscription *subscription, bool ends_with_empty);

#endif
