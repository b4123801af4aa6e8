/* A guest that does what it is told: reads and writes ports and memory.
 *
 * It boots from the first sector of a disk, tells the serial line that it has
 * booted, and then serves commands that a test writes into its memory
 * (port_payload.h). It stays in real mode, with interrupts off and nothing
 * but its registers to remember, so that it goes on in the same way wherever
 * its state is loaded; for memory above 1 MiB it enters protected mode for a
 * moment.
 */
#include "port_payload.h"

#define SECTOR 512
#define BOOT_SECTOR 0x7c00
#define SECTORS 4

#define PIC1_DATA 0x21
#define PIC2_DATA 0xa1
#define COM1 0x3f8
#define COM1_LINE_STATUS (COM1 + 5)
#define TRANSMITTER_EMPTY 0x20
#define PCI_ADDRESS 0xcf8
#define PCI_DATA 0xcfc

/* Selectors of the table at the end. */
#define CODE32 0x08
#define DATA32 0x10
#define CODE16 0x18
#define DATA16 0x20

    .text
    .code16
    .globl _start
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $BOOT_SECTOR, %sp
    ljmp $0, $load

/* The firmware loads one sector and leaves its drive number in %dl. */
load:
    movb $0x42, %ah
    movw $disk_packet, %si
    int $0x13
    jnc main
    movw $text_disk, %si
    call print
1:  hlt
    jmp 1b

/* %si: zero-terminated text */
print:
    lodsb
    testb %al, %al
    jz 2f
    movb %al, %bl
    movw $COM1_LINE_STATUS, %dx
1:  inb %dx, %al
    testb $TRANSMITTER_EMPTY, %al
    jz 1b
    movw $COM1, %dx
    movb %bl, %al
    outb %al, %dx
    jmp print
2:  ret

    .balign 4
disk_packet:
    .byte 16, 0
    .word SECTORS - 1
    .word second_sector, 0
    .quad 1

text_disk:
    .asciz "payload: disk error\r\n"
text_booted:
    .ascii PAYLOAD_BOOTED
    .asciz "\r\n"

    .org SECTOR - 2
    .word 0xaa55
second_sector:

main:
    cli
    movb $0xff, %al
    outb %al, $PIC1_DATA
    outb %al, $PIC2_DATA
    cld
    movw $MAILBOX, %di
    movw $MAILBOX_SIZE / 4, %cx
    xorl %eax, %eax
    rep stosl
    movw $reset_virtio, %si
    call in_protected_mode
    movl $PAYLOAD_MAGIC, MAILBOX_MAGIC
    movw $text_booted, %si
    call print

serve:
    pause
    movl MAILBOX_COMMAND, %ebx
    testl %ebx, %ebx
    jz serve
    cmpl $PAYLOAD_COMMANDS, %ebx
    jae 1f
    shlw $1, %bx
    call *commands(%bx)
1:  movl $PAYLOAD_IDLE, MAILBOX_COMMAND
    jmp serve

    .balign 2
commands:
    .word 0, read_port, write_port, sweep_in, sweep_out
    .word sweep_memory, peek, poke, triple_fault, write_port_by_vcpu1

read_port:
    movw MAILBOX_ADDRESS, %dx
    movb MAILBOX_WIDTH, %cl
    call port_in
    movl %eax, MAILBOX_VALUE
    ret

write_port:
    movw MAILBOX_ADDRESS, %dx
    movb MAILBOX_WIDTH, %cl
    movl MAILBOX_VALUE, %eax
    jmp port_out

sweep_memory:
    movw $sweep_memory_32, %si
    jmp in_protected_mode

peek:
    movw $peek_32, %si
    jmp in_protected_mode

poke:
    movw $poke_32, %si
    jmp in_protected_mode

triple_fault:
    movw $triple_fault_32, %si
    jmp in_protected_mode

write_port_by_vcpu1:
    movw $start_vcpu1_32, %si
    jmp in_protected_mode

/* The only thing that vCPU 1 ever does. */
vcpu1:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $VCPU1_STACK, %sp
    call write_port
1:  hlt
    jmp 1b

/* %dx: port, %cl: width; %eax: what was read, %ebx: all ones of that width */
port_in:
    cmpb $2, %cl
    je 2f
    ja 4f
    xorl %eax, %eax
    inb %dx, %al
    movl $0xff, %ebx
    ret
2:  xorl %eax, %eax
    inw %dx, %ax
    movl $0xffff, %ebx
    ret
4:  inl %dx, %eax
    movl $0xffffffff, %ebx
    ret

/* %dx: port, %cl: width, %eax: value */
port_out:
    cmpb $2, %cl
    je 2f
    ja 4f
    outb %al, %dx
    ret
2:  outw %ax, %dx
    ret
4:  outl %eax, %dx
    ret

/* Note that %eax was read from address %edi with width %cl. For both modes;
 * changes %esi. */
    .macro note_mismatch
    movl MAILBOX_MISMATCHES, %esi
    incl MAILBOX_MISMATCHES
    cmpl $MAILBOX_LIST_MAX, %esi
    jae .Lfull\@
    imull $MAILBOX_LIST_ENTRY, %esi, %esi
    movl %edi, MAILBOX_LIST(%esi)
    movzbl %cl, %ecx
    movl %ecx, MAILBOX_LIST + 4(%esi)
    movl %eax, MAILBOX_LIST + 8(%esi)
.Lfull\@:
    .endm

sweep_in:
    xorl %edi, %edi
1:  movb $1, %cl
2:  movw %di, %dx
    call port_in
    btl %edi, PORT_MAP
    jc 4f
    incl MAILBOX_CHECKED
    cmpl %ebx, %eax
    je 3f
    note_mismatch
3:  shlb $1, %cl
    cmpb $4, %cl
    jbe 2b
    incl %edi
    movl %edi, MAILBOX_PROGRESS
    cmpl $0x10000, %edi
    jb 1b
    ret
4:  incl MAILBOX_CLAIMED
    jmp 3b

sweep_out:
    xorl %edi, %edi
1:  btl %edi, PORT_MAP
    jc 3f
    movb $1, %cl
2:  movw %di, %dx
    movl MAILBOX_VALUE, %eax
    call port_out
    incl MAILBOX_CHECKED
    shlb $1, %cl
    cmpb $4, %cl
    jbe 2b
3:  incl %edi
    movl %edi, MAILBOX_PROGRESS
    cmpl $0x10000, %edi
    jb 1b
    ret

/* Calls the 32-bit code at %si with flat segments. */
in_protected_mode:
    movzwl %si, %esi
    movzwl %sp, %esp
    lgdtl gdt
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmp $CODE32, $1f
    .code32
1:  movw $DATA32, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    call *%esi
    ljmp $CODE16, $2f
    .code16
2:  movw $DATA16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %cr0, %eax
    andb $0xfe, %al
    movl %eax, %cr0
    ljmp $0, $3f
3:  xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    ret

    .code32
peek_32:
    movl MAILBOX_ADDRESS, %edi
    cmpl $2, MAILBOX_WIDTH
    je 2f
    ja 4f
    movzbl (%edi), %eax
    jmp 5f
2:  movzwl (%edi), %eax
    jmp 5f
4:  movl (%edi), %eax
5:  movl %eax, MAILBOX_VALUE
    ret

poke_32:
    movl MAILBOX_ADDRESS, %edi
    movl MAILBOX_VALUE, %eax
    cmpl $2, MAILBOX_WIDTH
    je 2f
    ja 4f
    movb %al, (%edi)
    ret
2:  movw %ax, (%edi)
    ret
4:  movl %eax, (%edi)
    ret

/* INIT and a start-up message to APIC 1 (SDM volume 3, 10.4.4). Both are kept
 * until the vCPU takes them, in this order; waiting in between is for chips. */
#define APIC_ICR_LOW 0xfee00300
#define APIC_ICR_HIGH 0xfee00310
#define ICR_TO_APIC1 (1 << 24)
#define ICR_INIT 0x4500
#define ICR_START_UP 0x4600
#define LJMP 0xea

start_vcpu1_32:
    movb $LJMP, VCPU1_ENTRY
    movl $vcpu1, VCPU1_ENTRY + 1 /* offset, and segment 0 */
    movl $ICR_TO_APIC1, APIC_ICR_HIGH
    movl $ICR_INIT, APIC_ICR_LOW
    movl $ICR_START_UP | VCPU1_ENTRY >> 12, APIC_ICR_LOW
    ret

/* An exception, and an interrupt table without room for any handler. Not in
 * real mode: there KVM's emulator does not look at the table's limit. */
triple_fault_32:
    lidt no_idt
    ud2

/* Compare what `load` reads at (%edi) + offset with all ones. */
    .macro check_ones load, offset, width, ones
    \load \offset(%edi), %eax
    incl MAILBOX_CHECKED
    cmpl $\ones, %eax
    je .Lones\@
    addl $\offset, %edi
    movb $\width, %cl
    note_mismatch
    subl $\offset, %edi
.Lones\@:
    .endm

check_memory:
    check_ones movzbl, 0, 1, 0xff
    check_ones movzbl, 0xfff, 1, 0xff
    check_ones movzwl, 2, 2, 0xffff
    check_ones movzwl, 7, 2, 0xffff
    check_ones movl, 4, 4, 0xffffffff
    check_ones movl, 9, 4, 0xffffffff
    ret

sweep_memory_32:
    movl $MEMORY_RANGES, %ebp
1:  cmpl $0, 8(%ebp)
    je 3f
    movl (%ebp), %edi
2:  call check_memory
    movl MAILBOX_VALUE, %eax
    movb %al, (%edi)
    movw %ax, 2(%edi)
    movl %eax, 4(%edi)
    movl %eax, 9(%edi)
    movb %al, 0xfff(%edi)
    call check_memory
    incl MAILBOX_PROGRESS
    addl 8(%ebp), %edi
    jc 4f
    cmpl 4(%ebp), %edi
    jbe 2b
4:  addl $MEMORY_RANGE_ENTRY, %ebp
    jmp 1b
3:  ret

/* %ebx: address in configuration space; %eax: its dword */
config_read:
    movl %ebx, %eax
    movw $PCI_ADDRESS, %dx
    outl %eax, %dx
    movw $PCI_DATA, %dx
    inl %dx, %eax
    ret

/* %ebx: address in configuration space, %eax: value */
config_write:
    pushl %eax
    movl %ebx, %eax
    movw $PCI_ADDRESS, %dx
    outl %eax, %dx
    popl %eax
    movw $PCI_DATA, %dx
    outl %eax, %dx
    ret

#define VIRTIO_VENDOR 0x1af4
#define PCI_COMMAND 0x04
#define PCI_COMMAND_MEMORY_MASTER 0x06
#define PCI_BAR4 0x20
#define PCI_BAR5 0x24
#define PCI_SLOT_STEP (1 << 11)
#define PCI_ENABLE 0x80000000
#define PCI_BUS_END (PCI_ENABLE + 32 * PCI_SLOT_STEP)
#define VIRTIO_STATUS 0x14 /* virtio 1.2, 4.1.4.3 */
#define BAR_WINDOW 0xd0000000
#define BAR_STEP 0x100000

/* The firmware leaves the disk's queues running, with rings in the memory
 * that it keeps for itself. An operating system resets what it takes over,
 * and so does this one. Modern registers are in BAR 4, which a firmware may
 * have placed above 4 GiB. */
reset_virtio:
    movl $PCI_ENABLE, %ebx
    movl $BAR_WINDOW, %edi
1:  call config_read
    cmpw $VIRTIO_VENDOR, %ax
    jne 2f
    movb $PCI_COMMAND, %bl
    xorl %eax, %eax
    call config_write
    movb $PCI_BAR4, %bl
    movl %edi, %eax
    call config_write
    movb $PCI_BAR5, %bl
    xorl %eax, %eax
    call config_write
    movb $PCI_COMMAND, %bl
    movl $PCI_COMMAND_MEMORY_MASTER, %eax
    call config_write
    movb $0, VIRTIO_STATUS(%edi)
    addl $BAR_STEP, %edi
    xorb %bl, %bl
2:  addl $PCI_SLOT_STEP, %ebx
    cmpl $PCI_BUS_END, %ebx
    jb 1b
    xorl %ebx, %ebx
    jmp config_read

    .balign 8
gdt_entries:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00009b000000ffff
    .quad 0x000093000000ffff
gdt:
    .word . - gdt_entries - 1
    .long gdt_entries
no_idt:
    .word 0
    .long 0

    .org SECTORS * SECTOR
