// How it works. The kernel asks a small program which socket takes a datagram (classic BPF, net/core/sock_reuseport.c),
// and another which queue of a TUN device takes a packet (eBPF, which is all that drivers/net/tun.c takes).

#include <errno.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "CLinux.h"
#include "program_loading.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))

// Offsets in an IP header without options or extensions, and of the UDP header behind it. Of an IPv6 address its end, in
// which machines of one network differ.
enum { SOURCE_ADDRESS = 12, SOURCE_PORT = 20, SOURCE_ADDRESS_IPV6 = 20, SOURCE_PORT_IPV6 = 40 };

int twill_steer_datagrams(int socket, uint32_t sockets, int is_ipv6) {
  const uint32_t source_address = is_ipv6 ? SOURCE_ADDRESS_IPV6 : SOURCE_ADDRESS;
  const uint32_t source_port = is_ipv6 ? SOURCE_PORT_IPV6 : SOURCE_PORT;
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_NET_OFF + source_address),
      BPF_STMT(BPF_MISC | BPF_TAX, 0),
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, (uint32_t)SKF_NET_OFF + source_port),
      BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
      BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, sockets),
      BPF_STMT(BPF_RET | BPF_A, 0),
  };
  struct sock_fprog program = {.len = LENGTH(code), .filter = code};
  return setsockopt(socket, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program);
}

// eBPF: what a load brings is in r0, r6 is the packet, r7 the sum, r8 the offset of the ports.
#define LOAD(size, offset) {.code = BPF_LD | BPF_ABS | (size), .imm = (offset)}
#define LOAD_AT_R8(size, offset) {.code = BPF_LD | BPF_IND | (size), .src_reg = BPF_REG_8, .imm = (offset)}
#define SET(register, value) {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (register), .imm = (value)}
#define COPY(register, from) {.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = (register), .src_reg = (from)}
#define APPLY(operation, register, value) \
  {.code = BPF_ALU | (operation) | BPF_K, .dst_reg = (register), .imm = (int)(value)}
#define ADD_TO_SUM {.code = BPF_ALU | BPF_ADD | BPF_X, .dst_reg = BPF_REG_7, .src_reg = BPF_REG_0}
#define SKIP(count) {.code = BPF_JMP | BPF_JA, .off = (count)}
#define SKIP_IF(comparison, value, count) \
  {.code = BPF_JMP | (comparison) | BPF_K, .dst_reg = BPF_REG_0, .imm = (value), .off = (count)}
#define RETURN {.code = BPF_JMP | BPF_EXIT}

static int load_packet_steering(uint32_t queues) {
  const struct bpf_insn code[] = {
      COPY(BPF_REG_6, BPF_REG_1),
      SET(BPF_REG_7, 0),
      LOAD(BPF_B, 0),
      COPY(BPF_REG_8, BPF_REG_0),
      APPLY(BPF_RSH, BPF_REG_0, 4),
      SKIP_IF(BPF_JEQ, 6, 12),
      SKIP_IF(BPF_JNE, 4, 35),
      // IPv4: addresses; a fragment (offset or more to come) has no ports that every fragment knows.
      LOAD(BPF_W, 12), ADD_TO_SUM,
      LOAD(BPF_W, 16), ADD_TO_SUM,
      LOAD(BPF_H, 6),
      APPLY(BPF_AND, BPF_REG_0, 0x3FFF),
      SKIP_IF(BPF_JNE, 0, 28),
      APPLY(BPF_AND, BPF_REG_8, 15),
      APPLY(BPF_LSH, BPF_REG_8, 2),
      LOAD(BPF_B, 9),
      SKIP(18),
      // IPv6: addresses; behind extension headers the ports are not looked for.
      LOAD(BPF_W, 8), ADD_TO_SUM, LOAD(BPF_W, 12), ADD_TO_SUM, LOAD(BPF_W, 16), ADD_TO_SUM, LOAD(BPF_W, 20),
      ADD_TO_SUM, LOAD(BPF_W, 24), ADD_TO_SUM, LOAD(BPF_W, 28), ADD_TO_SUM, LOAD(BPF_W, 32), ADD_TO_SUM,
      LOAD(BPF_W, 36), ADD_TO_SUM,
      SET(BPF_REG_8, 40),
      LOAD(BPF_B, 6),
      // r0 is the transport.
      SKIP_IF(BPF_JEQ, IPPROTO_TCP, 1),
      SKIP_IF(BPF_JNE, IPPROTO_UDP, 4),
      LOAD_AT_R8(BPF_H, 0), ADD_TO_SUM,
      LOAD_AT_R8(BPF_H, 2), ADD_TO_SUM,
      // The upper half of a product with 2^32 / golden ratio: neighbouring sums come far apart.
      APPLY(BPF_MUL, BPF_REG_7, 0x9E3779B1),
      APPLY(BPF_RSH, BPF_REG_7, 16),
      COPY(BPF_REG_0, BPF_REG_7),
      APPLY(BPF_MOD, BPF_REG_0, queues),
      RETURN,
  };
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
  attributes.insns = (uintptr_t)code;
  attributes.insn_cnt = LENGTH(code);
  attributes.license = (uintptr_t) "Apache-2.0";
  return twill_load_program(&attributes);
}

int twill_steer_packets(int tunnel, uint32_t queues) {
  int program = load_packet_steering(queues);
  if (program < 0) return -1;
  int result = ioctl(tunnel, TUNSETSTEERINGEBPF, &program), error = errno;
  close(program);
  errno = error;
  return result;
}
