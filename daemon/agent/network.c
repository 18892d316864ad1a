/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network: the loopback device always; with banger.ip one device with an address, a route and a resolver.
 *
 * The host chose the address, so there is nobody to ask. Done by ioctls, which every kernel has. The resolver is a file
 * (names.c).
 */
#include "agent.h"
#include <arpa/inet.h>
#include <banger/cleanup.h>
#include <net/if.h>
#include <net/route.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

struct address {
	struct in_addr ip, mask, gateway, dns; /* 0: none */
};

/* ADDRESS/PREFIX[,GATEWAY[,DNS]] */
static bool parse(const char *text, struct address *ret)
{
	char b[128], *save = NULL, *end;
	struct address a = {0};

	snprintf(b, sizeof(b), "%s", text);
	char *ip = strtok_r(b, ",", &save), *gateway = strtok_r(NULL, ",", &save),
	     *dns = strtok_r(NULL, ",", &save);
	char *slash = ip ? strchr(ip, '/') : NULL;
	if (!slash)
		return false;
	*slash++ = '\0';
	unsigned long prefix = strtoul(slash, &end, 10);
	if (*end || end == slash || prefix < 1 || prefix > 32 ||
		inet_pton(AF_INET, ip, &a.ip) != 1 ||
		(gateway && inet_pton(AF_INET, gateway, &a.gateway) != 1) ||
		(dns && inet_pton(AF_INET, dns, &a.dns) != 1))
		return false;
	a.mask.s_addr = htonl(UINT32_MAX << (32 - prefix));
	*ret = a;
	return true;
}

static int set_up(int s, const char *device)
{
	struct ifreq r = {0};

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", device);
	if (ioctl(s, SIOCGIFFLAGS, &r) < 0)
		return -errno;
	r.ifr_flags |= IFF_UP;
	return ioctl(s, SIOCSIFFLAGS, &r) < 0 ? -errno : 0;
}

static int set_address(int s, const char *device, int request, struct in_addr a)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr = a};
	struct ifreq r = {0};

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", device);
	memcpy(&r.ifr_addr, &sin, sizeof(sin));
	return ioctl(s, request, &r) < 0 ? -errno : 0;
}

static int set_route(int s, struct in_addr gateway)
{
	const struct sockaddr_in any = {.sin_family = AF_INET},
				 to = {.sin_family = AF_INET, .sin_addr = gateway};
	struct rtentry r = {.rt_flags = RTF_UP | RTF_GATEWAY};

	memcpy(&r.rt_dst, &any, sizeof(any));
	memcpy(&r.rt_genmask, &any, sizeof(any));
	memcpy(&r.rt_gateway, &to, sizeof(to));
	return ioctl(s, SIOCADDRT, &r) < 0 && errno != EEXIST ? -errno : 0;
}

/* The first device that a driver made. */
static bool find_device(char ret[IFNAMSIZ])
{
	_cleanup_closedir_ DIR *d = opendir("/sys/class/net");
	struct dirent *e;

	while (d && (e = readdir(d))) {
		char path[300];

		snprintf(path, sizeof(path), "/sys/class/net/%s/device", e->d_name);
		if (e->d_name[0] != '.' && strlen(e->d_name) < IFNAMSIZ &&
			access(path, F_OK) == 0) {
			strcpy(ret, e->d_name);
			return true;
		}
	}
	return false;
}

static int wait_for_device(char ret[IFNAMSIZ])
{
	const struct timespec pause = {0, 5000000};

	for (int i = 0; i < 1000; i++) {
		if (find_device(ret))
			return 0;
		nanosleep(&pause, NULL);
	}
	return -ENODEV;
}

static void set_resolver(const struct boot_options *o, struct in_addr a)
{
	char dns[INET_ADDRSTRLEN];

	if (a.s_addr && inet_ntop(AF_INET, &a, dns, sizeof(dns)))
		names_set_resolver(o, dns);
}

int boot_network(const struct boot_options *o, char *why)
{
	_cleanup_close_ int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char device[IFNAMSIZ];
	struct address a;

	if (s < 0 && !o->ip[0])
		return 0; /* a kernel without a network */
	if (s < 0)
		return fail(why, errno, "the kernel has no network", NULL);
	int r = set_up(s, "lo");
	if (!o->ip[0])
		return 0;
	if (!parse(o->ip, &a))
		return fail(
			why, EINVAL, "banger.ip says no ADDRESS/PREFIX[,GATEWAY[,DNS]]:", o->ip);
	r = wait_for_device(device);
	if (r < 0)
		return fail(why, -r, "the VM has no network device", NULL);
	r = set_address(s, device, SIOCSIFADDR, a.ip);
	if (r == 0)
		r = set_address(s, device, SIOCSIFNETMASK, a.mask);
	if (r == 0)
		r = set_up(s, device);
	if (r == 0 && a.gateway.s_addr)
		r = set_route(s, a.gateway);
	if (r < 0)
		return fail(why, -r, "cannot set up the network device", device);
	set_resolver(o, a.dns);
	return 0;
}
