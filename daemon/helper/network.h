/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The acts (request.h) on this machine's network, and the sweep, which removes what nobody has any more.
 *
 * Nothing is remembered: what is banger's says so in the kernel, by its name together with its alias ("banger …"), and
 * each act looks first. So the helper may be killed and started again at any moment.
 */
#ifndef BANGER_HELPER_NETWORK_H
#define BANGER_HELPER_NETWORK_H

#include "request.h"

struct network;
int network_new(const struct helper_subnet *range, struct network **ret, struct banger_error *err);
struct helper_acts network_acts(struct network *n);
/* To poll; network_news() takes what is there: is a sweep called for? */
int network_news_fd(const struct network *n);
bool network_news(struct network *n);
/* Remove TAPs that no program holds and ports that lead to no TAP; with bridges, also bridges without a TAP, and with the last
 * one what was switched for its sake. It goes on after an error, which is that of the first. */
int network_sweep(
	struct network *n, bool bridges, struct helper_swept *ret, struct banger_error *err);

#endif
