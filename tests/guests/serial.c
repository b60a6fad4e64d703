/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest that drives virtio-serial (virtio 1.2 5.3) without an operating system: polled, CPL 3, no interrupts, EVENT_IDX.
 * boot.S and link.ld of shared/bench/guest bring it here.
 *
 * Port 1 carries data, port 2 commands, one letter each; each is answered by its small letter when it is done:
 *   O  open port 1      C  close it      E  echo what comes in on port 1 (as at the start)      S  swallow it
 *   G  send 16 MiB of a pattern, byte i = i * 7 + (i >> 8)      R  answers "r RECEIVED OPENED-BY-HOST\n" in decimal
 */
#include <stdint.h>
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;
extern u64 pml4[], pdpt[], pd[], hipd[];

static inline void outb(u16 p, u8 v) { __asm__ volatile("outb %0,%1" :: "a"(v), "Nd"(p) : "memory"); }
static inline void outl(u16 p, u32 v) { __asm__ volatile("outl %0,%1" :: "a"(v), "Nd"(p) : "memory"); }
static inline u32 inl(u16 p) { u32 v; __asm__ volatile("inl %1,%0" : "=a"(v) : "Nd"(p) : "memory"); return v; }
static inline void fence(void) { __asm__ volatile("mfence" ::: "memory"); }
#define R8(a) (*(volatile u8 *)(u64)(a))
#define R16(a) (*(volatile u16 *)(u64)(a))
#define R32(a) (*(volatile u32 *)(u64)(a))
void *memset(void *d, int c, u64 n) { void *r = d; __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory"); return r; }
static void say(const char *s) { while (*s) outb(0x3f8, *s++); }
static void die(const char *why) { say(why); say("\n"); for (;;) __asm__ volatile("int $0x80"); }

/* ---- PCI ---- */
static u32 config(u32 slot, u32 at) { outl(0xcf8, 0x80000000u | slot << 11 | (at & 0xfc)); return inl(0xcfc) >> (at & 3) * 8; }
static u64 bar(u32 slot, int index)
{
	u32 low = config(slot, 0x10 + 4 * index);
	u64 at = low & ~15u;
	if ((low & 6) == 4) at |= (u64)config(slot, 0x14 + 4 * index) << 32;
	if (at >> 32) {		/* the gigabyte around it */
		u64 gib = at >> 30;
		for (int i = 0; i < 512; i++) hipd[i] = gib << 30 | (u64)i << 21 | 0x87;
		pdpt[gib] = (u64)hipd | 7;
		fence();
	}
	return at;
}

/* ---- virtio ---- */
#define MEMORY 0x1000000ull		/* rings from here, buffers behind them */
#define RING_BYTES 0x4000ull
#define BUFFERS (MEMORY + 0x100000ull)
#define F_MULTIPORT 2u
#define F_EVENT_IDX (1u << 29)
struct desc { u64 at; u32 length; u16 flags, next; };
struct ring { volatile struct desc *desc; volatile u16 *avail, *used; u16 size, made, seen, kicked; u64 bell; };
static u64 common, notify_base, rings_made;
static u32 notify_step;

static void ring_init(struct ring *q, int index)
{
	u64 at = MEMORY + RING_BYTES * rings_made++;
	R16(common + 22) = index;
	q->size = R16(common + 24);
	memset((void *)at, 0, RING_BYTES);
	q->desc = (void *)at; q->avail = (void *)(at + 0x1000); q->used = (void *)(at + 0x2000);
	q->made = q->seen = q->kicked = 0;
	for (int half = 0; half < 3; half++) {
		R32(common + 32 + 8 * half) = at + 0x1000 * half;
		R32(common + 36 + 8 * half) = 0;
	}
	q->bell = notify_base + notify_step * R16(common + 30);
	q->avail[2 + q->size] = 0x8000;		/* no interrupts for a while */
	R16(common + 28) = 1;
}
static void put(struct ring *q, u16 slot, u64 at, u32 length, int writable)
{
	q->desc[slot].at = at; q->desc[slot].length = length; q->desc[slot].flags = writable ? 2 : 0;
	q->avail[2 + (q->made & (q->size - 1))] = slot;
	fence();
	q->avail[1] = ++q->made;
}
static void kick(struct ring *q)
{
	if (q->made == q->kicked) return;
	fence();
	u16 event = q->used[2 + 4 * q->size];
	if ((u16)(q->made - event - 1) < (u16)(q->made - q->kicked)) R16(q->bell) = 0;
	q->kicked = q->made;
}
/* the next finished chain: its slot, or -1; *length: bytes written */
static int take(struct ring *q, u32 *length)
{
	if (q->used[1] == q->seen) return -1;
	volatile u32 *element = (volatile u32 *)(q->used + 2) + 2 * (q->seen & (q->size - 1));
	int slot = element[0];
	*length = element[1];
	q->avail[2 + q->size] = ++q->seen + 0x8000;
	return slot;
}

/* ---- virtio-serial ---- */
enum { READY, ADD, REMOVE, PORT_READY, CONSOLE, RESIZE, OPEN, NAME };
#define CHUNK 4096u
static struct ring control_in, control_out, data_in, data_out, command_in, command_out;
static u64 received, host_opens;
static int echo = 1;
static u8 busy[256];		/* tx slots in use */
static u64 home[256];		/* the receive buffer that a tx slot carries, or 0 */
static u16 home_slot[256];

static u64 buffer(int which, int slot) { return BUFFERS + which * 0x200000ull + CHUNK * slot; }
static void wait_for(struct ring *q) { u32 n; kick(q); while (take(q, &n) < 0) __asm__ volatile("pause"); }

static void control(u32 port, u16 event, u16 value)
{
	u64 at = buffer(1, 0);
	R32(at) = port; R16(at + 4) = event; R16(at + 6) = value;
	put(&control_out, 0, at, 8, 0);
	wait_for(&control_out);
}
static void answer(const char *text)
{
	u32 n = 0;
	u64 at = buffer(2, 0);
	while (text[n]) { R8(at + n) = text[n]; n++; }
	put(&command_out, 0, at, n, 0);
	wait_for(&command_out);
}
static char *number(char *end, u64 value) { do *--end = '0' + value % 10; while (value /= 10); return end; }
static void report(void)
{
	char text[64], *at = text + 63;
	*at = 0; *--at = '\n'; at = number(at, host_opens); *--at = ' '; at = number(at, received); *--at = ' '; *--at = 'r';
	answer(at);
}
static int free_slot(void) { for (int i = 0; i < data_out.size; i++) if (!busy[i]) return i; return -1; }
static void send(u64 at, u32 length, u16 slot, int from) { busy[slot] = 1; home[slot] = from >= 0; home_slot[slot] = from; put(&data_out, slot, at, length, 0); }
static void recycle(void)		/* what the host has taken goes back */
{
	u32 n; int slot;
	while ((slot = take(&data_out, &n)) >= 0) {
		busy[slot] = 0;
		if (home[slot]) put(&data_in, home_slot[slot], buffer(0, home_slot[slot]), CHUNK, 1);
	}
}
static void generate(void)
{
	u64 base = BUFFERS + 0x1000000ull;
	for (u32 i = 0; i < 1u << 16; i++) R8(base + i) = i * 7 + (i >> 8);	/* repeats after 64 KiB */
	for (u32 done = 0; done < 16u << 20; ) {
		int slot;
		while ((slot = free_slot()) < 0) { kick(&data_out); recycle(); }
		send(base + (done & 0xffff), 32768, slot, -1);
		done += 32768;
	}
	kick(&data_out);
	while (data_out.made != data_out.seen) recycle();
}
static void obey(u8 command)
{
	char done[2] = { command | 32, 0 };
	if (command == 'O') control(1, OPEN, 1);
	else if (command == 'C') control(1, OPEN, 0);
	else if (command == 'E' || command == 'S') echo = command == 'E';
	else if (command == 'G') generate();
	else if (command == 'R') { report(); return; }
	else return;
	answer(done);
}
static void heed(u64 at)
{
	u32 port = R32(at); u16 event = R16(at + 4), value = R16(at + 6);
	if (event == ADD) control(port, PORT_READY, 1);
	if (event == OPEN && port == 1 && value) host_opens++;
	if (event == ADD && port == 2) control(2, OPEN, 1);
}
static void start(u32 slot)
{
	outl(0xcf8, 0x80000000u | slot << 11 | 4); outl(0xcfc, (config(slot, 4) & 0xffff) | 6);
	for (u8 at = config(slot, 0x34); at; at = config(slot, at + 1)) {
		if ((u8)config(slot, at) != 9) continue;
		u8 kind = config(slot, at + 3);
		u64 where = bar(slot, config(slot, at + 4) & 7) + config(slot, at + 8);
		if (kind == 1) common = where;
		if (kind == 2) { notify_base = where; notify_step = config(slot, at + 16); }
	}
	if (!common) die("no modern virtio");
	R8(common + 20) = 0; while (R8(common + 20)) ;
	R8(common + 20) = 1; R8(common + 20) = 3;
	R32(common + 0) = 0; u32 offered = R32(common + 4);
	R32(common + 8) = 0; R32(common + 12) = offered & (F_MULTIPORT | F_EVENT_IDX);
	R32(common + 8) = 1; R32(common + 12) = 1;
	R8(common + 20) = 11; if (!(R8(common + 20) & 8)) die("features refused");
	ring_init(&control_in, 2); ring_init(&control_out, 3);
	ring_init(&data_in, 4); ring_init(&data_out, 5); ring_init(&command_in, 6); ring_init(&command_out, 7);
	R8(common + 20) = 15;
	for (int i = 0; i < control_in.size; i++) put(&control_in, i, buffer(3, i), 128, 1);
	for (int i = 0; i < data_in.size; i++) put(&data_in, i, buffer(0, i), CHUNK, 1);
	for (int i = 0; i < 16; i++) put(&command_in, i, buffer(4, i), 64, 1);
	kick(&control_in); kick(&data_in); kick(&command_in);
	control(0xffffffff, READY, 1);
}
void cmain(void)
{
	u32 slot, n; int i;
	for (u64 p = 32; p < 2048; p++) pd[p] = p << 21 | 0x87;	/* the rest of 4 GiB */
	fence();
	for (slot = 0; slot < 32; slot++) if (config(slot, 0) == 0x10031af4 || config(slot, 0) == 0x10431af4) break;
	if (slot == 32) die("no virtio-serial");
	start(slot);
	say("ready\n");
	for (;;) {
		while ((i = take(&control_in, &n)) >= 0) { heed(buffer(3, i)); put(&control_in, i, buffer(3, i), 128, 1); }
		while ((i = take(&command_in, &n)) >= 0) {
			for (u32 at = 0; at < n; at++) obey(R8(buffer(4, i) + at));
			put(&command_in, i, buffer(4, i), 64, 1);
		}
		recycle();
		while (1) {
			int out = echo ? free_slot() : 0;
			if (out < 0 || (i = take(&data_in, &n)) < 0) break;
			received += n;
			if (echo && n) send(buffer(0, i), n, out, i);
			else put(&data_in, i, buffer(0, i), CHUNK, 1);
		}
		kick(&control_in); kick(&command_in); kick(&data_out); kick(&data_in);
		__asm__ volatile("pause");
	}
}
