/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rtnetlink, as much of it as a bridge needs: requests with an acknowledgement, and dumps.
 *
 * The socket is asked one thing at a time by one thread, and read to the end of the answer. What comes with another
 * sequence number is left from a dump that was given up, and skipped. A dump that the kernel says was interrupted by
 * a change is read again.
 *
 * IPv4's switches of an interface (forwarding, route_localnet) are set by netlink, not in /proc/sys: so the helper
 * opens no file for them, and they are those of the network namespace that it was started in.
 */
#include "link.h"

#include <arpa/inet.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/netconf.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>

#define REPLY_SIZE 32768
#define DUMP_TRIES 5

struct message {
	_Alignas(struct nlmsghdr) char b[1024];
	struct nlmsghdr *h;
};

static void *begin(struct message *m, int type, int flags, size_t body)
{
	memset(m, 0, sizeof(*m));
	m->h = (struct nlmsghdr *)m->b;
	m->h->nlmsg_len = NLMSG_LENGTH(body);
	m->h->nlmsg_type = type;
	m->h->nlmsg_flags = NLM_F_REQUEST | flags;
	return NLMSG_DATA(m->h);
}

/* The attributes of each message are few and of our own making: they fit. */
static struct rtattr *attribute(struct message *m, int type, const void *data, size_t len)
{
	struct rtattr *a = (struct rtattr *)(m->b + NLMSG_ALIGN(m->h->nlmsg_len));

	a->rta_type = type;
	a->rta_len = RTA_LENGTH(len);
	if (len > 0)
		memcpy(RTA_DATA(a), data, len);
	m->h->nlmsg_len = NLMSG_ALIGN(m->h->nlmsg_len) + RTA_ALIGN(a->rta_len);
	return a;
}

static struct rtattr *nest(struct message *m, int type)
{
	return attribute(m, type | NLA_F_NESTED, NULL, 0);
}

static void end(struct message *m, struct rtattr *a)
{
	a->rta_len = m->b + m->h->nlmsg_len - (char *)a;
}

/* ---- asking */

typedef int each_message(void *arg, const struct nlmsghdr *h);

static int send_message(struct rtnl *r, struct message *m)
{
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};

	m->h->nlmsg_seq = ++r->seq;
	ssize_t n =
		sendto(r->fd, m->b, m->h->nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof(kernel));
	return n < 0 ? -errno : 0;
}

/* 1: there is more to come. */
static int take_message(
	struct rtnl *r, const struct nlmsghdr *h, each_message *each, void *arg, bool *interrupted)
{
	const struct nlmsgerr *e = NLMSG_DATA(h);

	if (h->nlmsg_seq != r->seq)
		return 1;
	if (h->nlmsg_flags & NLM_F_DUMP_INTR)
		*interrupted = true;
	if (h->nlmsg_type == NLMSG_DONE)
		return 0;
	if (h->nlmsg_type == NLMSG_ERROR)
		return h->nlmsg_len < NLMSG_LENGTH(sizeof(*e)) ? -EPROTO : e->error;
	int k = each ? each(arg, h) : 0;
	return k < 0 ? k : 1;
}

static int receive(struct rtnl *r, each_message *each, void *arg, bool *interrupted)
{
	static _Alignas(struct nlmsghdr) char b[REPLY_SIZE]; /* one thread */

	for (;;) {
		struct iovec iov = {b, sizeof(b)};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
		ssize_t n = recvmsg(r->fd, &msg, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (msg.msg_flags & MSG_TRUNC)
			return -EMSGSIZE;
		int left = n;
		for (struct nlmsghdr *h = (struct nlmsghdr *)b; NLMSG_OK(h, left);
			h = NLMSG_NEXT(h, left)) {
			int k = take_message(r, h, each, arg, interrupted);
			if (k <= 0)
				return k;
		}
	}
}

static int ask(struct rtnl *r, struct message *m)
{
	bool interrupted;

	m->h->nlmsg_flags |= NLM_F_ACK;
	int k = send_message(r, m);
	return k < 0 ? k : receive(r, NULL, NULL, &interrupted);
}

/* A list that grows. */
struct list {
	void *v;
	size_t n, size;
};

static void *append(struct list *l, size_t item)
{
	if (l->n == l->size) {
		size_t size = l->size ? 2 * l->size : 32;
		void *v = reallocarray(l->v, size, item);
		if (!v)
			return NULL;
		l->v = v;
		l->size = size;
	}
	void *p = (char *)l->v + l->n++ * item;
	return memset(p, 0, item);
}

static int dump(struct rtnl *r, struct message *m, each_message *each, struct list *l)
{
	m->h->nlmsg_flags |= NLM_F_DUMP;
	for (int i = 0; i < DUMP_TRIES; i++) {
		bool interrupted = false;

		l->n = 0;
		int k = send_message(r, m);
		if (k == 0)
			k = receive(r, each, l, &interrupted);
		if (k < 0 || !interrupted)
			return k;
	}
	return -EAGAIN;
}

static int32_t number(const struct rtattr *a)
{
	int32_t v = 0;

	memcpy(&v, RTA_DATA(a), RTA_PAYLOAD(a) < sizeof(v) ? RTA_PAYLOAD(a) : sizeof(v));
	return v;
}

static void text(const struct rtattr *a, char *to, size_t size)
{
	snprintf(to, size, "%.*s", (int)RTA_PAYLOAD(a), (const char *)RTA_DATA(a));
}

#define EACH_ATTRIBUTE(a, first, left)                                                             \
	for (struct rtattr *a = (first); RTA_OK(a, left); a = RTA_NEXT(a, left))

/* ---- sockets */

static int open_socket(int flags, unsigned groups, struct banger_error *err)
{
	struct sockaddr_nl self = {.nl_family = AF_NETLINK};
	int on = 1;
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | flags, NETLINK_ROUTE);

	if (fd < 0 || bind(fd, (struct sockaddr *)&self, sizeof(self)) < 0)
		return banger_error_set_errno(err, errno, "cannot open rtnetlink");
	setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof(on));
	setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
	for (unsigned g = 1; g < 32; g++)
		if (groups >> g & 1 &&
			setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &g, sizeof(g)) < 0)
			return banger_error_set_errno(err, errno, "cannot watch interfaces");
	return TAKE_FD(fd);
}

int rtnl_open(struct rtnl *ret, struct banger_error *err)
{
	_cleanup_close_ int fd = open_socket(0, 0, err);
	_cleanup_close_ int news =
		fd < 0 ? -1
		       : open_socket(SOCK_NONBLOCK, 1u << RTNLGRP_LINK | 1u << RTNLGRP_IPV4_NETCONF,
				 err);
	if (fd < 0 || news < 0)
		return fd < 0 ? fd : news;
	*ret = (struct rtnl){.fd = TAKE_FD(fd), .news_fd = TAKE_FD(news)};
	return 0;
}

static bool is_news(const struct nlmsghdr *h)
{
	int left;

	if (h->nlmsg_type == RTM_NEWNETCONF) {
		left = h->nlmsg_len - NLMSG_SPACE(sizeof(struct netconfmsg));
		EACH_ATTRIBUTE(a,
			(struct rtattr *)((char *)NLMSG_DATA(h) +
					  NLMSG_ALIGN(sizeof(struct netconfmsg))),
			left)
		if (a->rta_type == NETCONFA_IFINDEX)
			return number(a) == NETCONFA_IFINDEX_ALL;
	}
	if (h->nlmsg_type == RTM_DELLINK) {
		left = h->nlmsg_len - NLMSG_LENGTH(sizeof(struct ifinfomsg));
		EACH_ATTRIBUTE(a, IFLA_RTA(NLMSG_DATA(h)), left)
		if (a->rta_type == IFLA_IFNAME && RTA_PAYLOAD(a) > 4)
			return memcmp(RTA_DATA(a), "bngr", 4) == 0;
	}
	return false;
}

bool links_news(struct rtnl *r)
{
	_Alignas(struct nlmsghdr) char b[REPLY_SIZE];
	bool found = false;
	ssize_t n;

	while ((n = recv(r->news_fd, b, sizeof(b), 0)) >= 0 || errno == EINTR || errno == ENOBUFS) {
		if (n < 0) {
			found = true; /* some were lost */
			continue;
		}
		int left = n;
		for (struct nlmsghdr *h = (struct nlmsghdr *)b; NLMSG_OK(h, left);
			h = NLMSG_NEXT(h, left))
			found = found || is_news(h);
	}
	return found;
}

/* ---- interfaces */

void links_done(struct links *l)
{
	free(l->v);
	*l = (struct links){0};
}

const struct link *links_find(const struct links *l, const char *name)
{
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->v[i].name, name) == 0)
			return &l->v[i];
	return NULL;
}

const struct link *links_at(const struct links *l, int index)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i].index == index)
			return &l->v[i];
	return NULL;
}

static void take_kind(struct link *l, const struct rtattr *info)
{
	int left = RTA_PAYLOAD(info);
	char kind[16];

	EACH_ATTRIBUTE(a, (struct rtattr *)RTA_DATA(info), left)
	{
		if (a->rta_type != IFLA_INFO_KIND)
			continue;
		text(a, kind, sizeof(kind));
		if (strcmp(kind, "bridge") == 0)
			l->kind = LINK_BRIDGE;
		else if (strcmp(kind, "tun") == 0)
			l->kind = LINK_TUN;
	}
}

static int each_link(void *arg, const struct nlmsghdr *h)
{
	const struct ifinfomsg *i = NLMSG_DATA(h);
	int left = h->nlmsg_len - NLMSG_LENGTH(sizeof(*i));

	if (h->nlmsg_type != RTM_NEWLINK || left < 0)
		return 0;
	struct link *l = append(arg, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->index = i->ifi_index;
	l->up = i->ifi_flags & IFF_UP;
	l->loopback = i->ifi_flags & IFF_LOOPBACK;
	EACH_ATTRIBUTE(a, IFLA_RTA(i), left)
	{
		switch (a->rta_type & NLA_TYPE_MASK) {
		case IFLA_IFNAME:
			text(a, l->name, sizeof(l->name));
			break;
		case IFLA_IFALIAS:
			text(a, l->alias, sizeof(l->alias));
			break;
		case IFLA_MASTER:
			l->master = number(a);
			break;
		case IFLA_CARRIER:
			l->carrier = number(a) != 0;
			break;
		case IFLA_LINKINFO:
			take_kind(l, a);
			break;
		}
	}
	return 0;
}

int links_list(struct rtnl *r, struct links *ret, struct banger_error *err)
{
	struct list l = {0};
	struct message m;

	begin(&m, RTM_GETLINK, 0, sizeof(struct ifinfomsg));
	int k = dump(r, &m, each_link, &l);
	if (k < 0) {
		free(l.v);
		return banger_error_set_errno(err, k, "cannot list the network interfaces");
	}
	*ret = (struct links){l.v, l.n};
	return 0;
}

static int checked(int k, struct banger_error *err, const char *what)
{
	return k < 0 ? banger_error_set_errno(err, k, "%s", what) : 0;
}

int link_add_bridge(
	struct rtnl *r, const char *name, const unsigned char mac[6], struct banger_error *err)
{
	struct message m;

	begin(&m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg));
	attribute(&m, IFLA_IFNAME, name, strlen(name) + 1);
	attribute(&m, IFLA_ADDRESS, mac, 6);
	struct rtattr *info = nest(&m, IFLA_LINKINFO);
	attribute(&m, IFLA_INFO_KIND, "bridge", 6);
	end(&m, info);
	return checked(ask(r, &m), err, "cannot make the bridge");
}

static struct ifinfomsg *begin_link(struct message *m, int type, int index)
{
	struct ifinfomsg *i = begin(m, type, 0, sizeof(*i));

	i->ifi_index = index;
	return i;
}

int link_delete(struct rtnl *r, int index, struct banger_error *err)
{
	struct message m;

	begin_link(&m, RTM_DELLINK, index);
	return checked(ask(r, &m), err, "cannot remove the interface");
}

int link_set_alias(struct rtnl *r, int index, const char *alias, struct banger_error *err)
{
	struct message m;

	begin_link(&m, RTM_NEWLINK, index);
	attribute(&m, IFLA_IFALIAS, alias, strnlen(alias, LINK_ALIAS_MAX));
	return checked(ask(r, &m), err, "cannot mark the interface");
}

/* IPV4_DEVCONF_…, on or off. */
static int set_switches(struct rtnl *r, int index, const int *which, size_t n, bool on)
{
	struct message m;
	uint32_t v = on;

	begin_link(&m, RTM_NEWLINK, index);
	struct rtattr *spec = nest(&m, IFLA_AF_SPEC), *inet = nest(&m, AF_INET),
		      *conf = nest(&m, IFLA_INET_CONF);
	for (size_t i = 0; i < n; i++)
		attribute(&m, which[i], &v, sizeof(v));
	end(&m, conf);
	end(&m, inet);
	end(&m, spec);
	return ask(r, &m);
}

int forwarding_set(struct rtnl *r, int index, bool on, struct banger_error *err)
{
	const int which[] = {IPV4_DEVCONF_FORWARDING};

	return checked(set_switches(r, index, which, 1, on), err, "cannot switch forwarding");
}

int link_configure_bridge(struct rtnl *r, int index, struct banger_error *err)
{
	const int which[] = {IPV4_DEVCONF_FORWARDING, IPV4_DEVCONF_ROUTE_LOCALNET};

	link_no_ipv6(r, index);
	return checked(set_switches(r, index, which, 2, true), err, "cannot set up the bridge");
}

void link_no_ipv6(struct rtnl *r, int index)
{
	struct message m;
	uint8_t mode = IN6_ADDR_GEN_MODE_NONE;

	begin_link(&m, RTM_NEWLINK, index);
	struct rtattr *spec = nest(&m, IFLA_AF_SPEC), *inet6 = nest(&m, AF_INET6);
	attribute(&m, IFLA_INET6_ADDR_GEN_MODE, &mode, sizeof(mode));
	end(&m, inet6);
	end(&m, spec);
	ask(r, &m);
}

int link_set_up(struct rtnl *r, int index, int master, struct banger_error *err)
{
	struct message m;
	struct ifinfomsg *i = begin_link(&m, RTM_NEWLINK, index);

	i->ifi_flags = i->ifi_change = IFF_UP;
	if (master > 0)
		attribute(&m, IFLA_MASTER, &master, sizeof(master));
	return checked(ask(r, &m), err,
		master > 0 ? "cannot attach the TAP to the bridge" : "cannot bring the bridge up");
}

int link_add_address(
	struct rtnl *r, int index, uint32_t address, int prefix, struct banger_error *err)
{
	struct message m;
	struct ifaddrmsg *i =
		begin(&m, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifaddrmsg));
	uint32_t a = htonl(address), broadcast = htonl(address | (~UINT32_C(0) >> prefix));

	i->ifa_family = AF_INET;
	i->ifa_prefixlen = prefix;
	i->ifa_index = index;
	attribute(&m, IFA_LOCAL, &a, sizeof(a));
	attribute(&m, IFA_ADDRESS, &a, sizeof(a));
	attribute(&m, IFA_BROADCAST, &broadcast, sizeof(broadcast));
	int k = ask(r, &m);
	return k == -EEXIST ? 0 : checked(k, err, "cannot give the bridge its address");
}

/* ---- routes */

static int each_route(void *arg, const struct nlmsghdr *h)
{
	const struct rtmsg *t = NLMSG_DATA(h);
	int left = h->nlmsg_len - NLMSG_LENGTH(sizeof(*t));

	if (h->nlmsg_type != RTM_NEWROUTE || left < 0 || t->rtm_family != AF_INET ||
		t->rtm_flags & RTM_F_CLONED)
		return 0;
	struct route *route = append(arg, sizeof(*route));
	if (!route)
		return -ENOMEM;
	route->to.prefix = t->rtm_dst_len <= 32 ? t->rtm_dst_len : 32;
	EACH_ATTRIBUTE(a, RTM_RTA(t), left)
	{
		if (a->rta_type == RTA_DST)
			route->to.address = ntohl((uint32_t)number(a));
		else if (a->rta_type == RTA_OIF)
			route->index = number(a);
	}
	return 0;
}

int routes_list(struct rtnl *r, struct route **ret, size_t *ret_n, struct banger_error *err)
{
	struct list l = {0};
	struct message m;
	struct rtmsg *t = begin(&m, RTM_GETROUTE, 0, sizeof(*t));

	t->rtm_family = AF_INET;
	int k = dump(r, &m, each_route, &l);
	if (k < 0) {
		free(l.v);
		return banger_error_set_errno(err, k, "cannot list the routes");
	}
	*ret = l.v;
	*ret_n = l.n;
	return 0;
}

/* ---- forwarding */

static int each_forwarding(void *arg, const struct nlmsghdr *h)
{
	int left = h->nlmsg_len - NLMSG_SPACE(sizeof(struct netconfmsg));

	if (h->nlmsg_type != RTM_NEWNETCONF || left < 0)
		return 0;
	struct forwarding *f = append(arg, sizeof(*f));
	if (!f)
		return -ENOMEM;
	EACH_ATTRIBUTE(a,
		(struct rtattr *)((char *)NLMSG_DATA(h) + NLMSG_ALIGN(sizeof(struct netconfmsg))),
		left)
	{
		if (a->rta_type == NETCONFA_IFINDEX)
			f->index = number(a);
		else if (a->rta_type == NETCONFA_FORWARDING)
			f->on = number(a) != 0;
	}
	return 0;
}

int forwarding_list(
	struct rtnl *r, struct forwarding **ret, size_t *ret_n, struct banger_error *err)
{
	struct list l = {0};
	struct message m;
	struct netconfmsg *c = begin(&m, RTM_GETNETCONF, 0, sizeof(*c));

	c->ncm_family = AF_INET;
	m.h->nlmsg_len = NLMSG_ALIGN(m.h->nlmsg_len);
	int k = dump(r, &m, each_forwarding, &l);
	if (k < 0) {
		free(l.v);
		return banger_error_set_errno(err, k, "cannot ask which interfaces forward");
	}
	*ret = l.v;
	*ret_n = l.n;
	return 0;
}
