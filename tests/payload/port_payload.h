/* What the port payload and its tests agree on: numbers only, for C++ and
 * the assembler alike. Addresses are guest-physical and below 64 KiB, so that
 * real-mode code reaches them with segment 0. All fields are 32 bits wide and
 * little-endian, but for the map. */
#pragma once

/* The mailbox. The test fills in the arguments, then the command; the payload
 * carries it out and sets the command back to PAYLOAD_IDLE. */
#define MAILBOX 0x1000
#define MAILBOX_SIZE 0x1000
#define MAILBOX_MAGIC (MAILBOX + 0x00)   /* PAYLOAD_MAGIC once it is up */
#define MAILBOX_COMMAND (MAILBOX + 0x04) /* PAYLOAD_... below */
#define MAILBOX_ADDRESS (MAILBOX + 0x08) /* port or physical address */
#define MAILBOX_WIDTH (MAILBOX + 0x0c)   /* 1, 2 or 4 bytes */
#define MAILBOX_VALUE (MAILBOX + 0x10)   /* to write, or what was read */

/* Findings of the sweeps; the test clears them. */
#define MAILBOX_PROGRESS (MAILBOX + 0x14)   /* ports or addresses done */
#define MAILBOX_CHECKED (MAILBOX + 0x18)    /* accesses compared or written */
#define MAILBOX_CLAIMED (MAILBOX + 0x1c)    /* accesses to claimed ports */
#define MAILBOX_MISMATCHES (MAILBOX + 0x20) /* reads that were not all ones */

/* The first mismatches: address, width, value. */
#define MAILBOX_LIST (MAILBOX + 0x100)
#define MAILBOX_LIST_MAX 32
#define MAILBOX_LIST_ENTRY 12

/* Memory for PAYLOAD_SWEEP_MEMORY: first address, last address, step; a step
 * of 0 ends the list. */
#define MEMORY_RANGES 0x2000
#define MEMORY_RANGES_MAX 64
#define MEMORY_RANGE_ENTRY 12

/* Where vCPU 1 starts: a page that the payload writes a jump to. Its stack ends
 * well below that of vCPU 0. */
#define VCPU1_ENTRY 0x3000
#define VCPU1_STACK 0x7000

/* One bit per port: set for those that a device claims. */
#define PORT_MAP 0x4000
#define PORT_MAP_SIZE 0x2000

#define PAYLOAD_MAGIC 0x44414f4c /* "LOAD" */

#define PAYLOAD_IDLE 0
#define PAYLOAD_IN 1           /* value <- port */
#define PAYLOAD_OUT 2          /* port <- value */
#define PAYLOAD_SWEEP_IN 3     /* all ports, all widths */
#define PAYLOAD_SWEEP_OUT 4    /* value to all unclaimed ports, all widths */
#define PAYLOAD_SWEEP_MEMORY 5 /* reads, writes of the value, reads again */
#define PAYLOAD_PEEK 6         /* value <- memory */
#define PAYLOAD_POKE 7         /* memory <- value */
#define PAYLOAD_TRIPLE_FAULT 8
#define PAYLOAD_OUT_BY_VCPU1 9 /* port <- value, by a vCPU that it starts */
#define PAYLOAD_COMMANDS 10

/* What it writes to the serial line of the machine that it boots on. */
#define PAYLOAD_BOOTED "payload booted"
