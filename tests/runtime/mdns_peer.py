"""Another machine's view of the network: mDNS packets put together and taken apart by dnspython, on a plain socket."""

import socket
import struct
import time
from contextlib import suppress

import dns.exception
import dns.message
import dns.name
import dns.rdata
import dns.rdatatype
import dns.rrset
import dns.wire
from dns.rdataclass import IN
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.SRV import SRV

GROUP_V4, GROUP_V6, PORT = "224.0.0.251", "ff02::fb", 5353
TYPE = "_geoshift._tcp.local."
FLUSH = 0x8000
PATIENCE_S = 60
"""How long to wait for what must come; a busy machine takes its time."""


class Peer:
    """Listens to everything that is multicast on one interface, and remembers it as a cache would.

    Args:
        ip: IPv4 address of the interface, or
        index: number of the interface, for IPv6.
    """

    def __init__(self, ip=None, index=None):
        self.records = {}
        self.history = []
        self.sources = set()
        self._v6 = index is not None
        family = socket.AF_INET6 if self._v6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            self._socket.setsockopt(socket.SOL_SOCKET, option, 1)
        if self._v6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._socket.bind((GROUP_V6, PORT, 0, index))
            group = socket.inet_pton(family, GROUP_V6) + struct.pack("@I", index)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            self._group = (GROUP_V6, PORT, 0, index)
        else:
            self._socket.bind((GROUP_V4, PORT))
            group = socket.inet_aton(GROUP_V4) + socket.inet_aton(ip)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(ip))
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
            self._group = (GROUP_V4, PORT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def ask(self, name, kind):
        """Send a multicast question."""
        question = dns.message.make_query(name, kind)
        question.flags, question.id = 0, 0
        self.send(question.to_wire())

    def answer(self, *rrsets):
        """Send a multicast answer that nobody asked for; a time to live of 0 is a goodbye."""
        said = dns.message.Message(id=0)
        said.flags = 0x8400
        said.answer.extend(rrsets)
        self.send(said.to_wire())

    def send(self, raw):
        self._socket.sendto(raw, self._group)

    def until(self, condition, ask=None):
        """Listen until something is so; ask again every second meanwhile.

        Args:
            condition: A function of this peer.
            ask: Question, name and type.
        """
        end, again = time.monotonic() + PATIENCE_S, 0.0
        while not (found := condition(self)):
            now = time.monotonic()
            assert now < end, f"waited in vain; seen: {self.records}"
            if ask and now >= again:
                self.ask(*ask)
                again = now + 1
            self._socket.settimeout(0.2)
            with suppress(TimeoutError):
                raw, source = self._socket.recvfrom(9000)
                self.sources.add(source[0])
                self._take(raw)
        return found

    def forget(self):
        """Forget what was said until now, what was not listened to yet included."""
        self._socket.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(9000)
        self.records.clear()
        self.history.clear()

    def _take(self, raw):
        try:
            for name, kind, ttl, rdata in answers(raw):
                known = self.records.setdefault((name, kind), {})
                self.history.append((name, kind, ttl, rdata))
                if ttl:
                    known[rdata] = ttl
                else:
                    known.pop(rdata, None)
        except dns.exception.DNSException:
            return  # somebody else's odd packet

    def rdata(self, name, kind):
        """Records of a name that are valid now."""
        return list(self.records.get((dns.name.from_text(name), dns.rdatatype.from_text(kind)), {}))

    def instances(self):
        """Names of the services that are there."""
        return [one.target.to_text().replace("\\032", " ") for one in self.rdata(TYPE, "PTR")]

    def all_txt(self, instance):
        """Keys and values of a service's TXT record, each time that it was said."""
        name = dns.name.from_text(instance)
        said = [
            rdata for owner, kind, ttl, rdata in self.history if owner == name and kind == dns.rdatatype.TXT and ttl
        ]
        return [dict(pair.decode().split("=", 1) for pair in rdata.strings) for rdata in said]

    def txt(self, instance):
        """The last of them."""
        return (self.all_txt(instance) or [{}])[-1]


def device(label, address, *, txt=(b"txtvers=1",), host="board", port=8443, ttl=120):
    """Records of a device as rrsets: whatever bytes the name and the TXT strings are made of."""
    service, server = dns.name.from_text(TYPE), dns.name.from_text(f"{host}.local.")
    instance = dns.name.Name((label.encode() if isinstance(label, str) else label, *service.labels))
    kind = dns.rdatatype.AAAA if ":" in address else dns.rdatatype.A
    return (
        dns.rrset.from_rdata(service, ttl, PTR(IN, dns.rdatatype.PTR, instance)),
        dns.rrset.from_rdata(instance, ttl, SRV(IN, dns.rdatatype.SRV, 0, 0, port, server)),
        dns.rrset.from_rdata(instance, ttl, TXT(IN, dns.rdatatype.TXT, txt)),
        dns.rrset.from_text(server, ttl, "IN", kind, address),
    )


def answers(raw):
    """Records of a response: name, type, time to live, value. The cache-flush bit is left out."""
    parser = dns.wire.Parser(raw)
    _, flags, questions, *counts = parser.get_struct("!HHHHHH")
    if not flags & 0x8000:
        return
    for _ in range(questions):
        dns.name.from_wire_parser(parser)
        parser.get_struct("!HH")
    for _ in range(sum(counts)):
        name = dns.name.from_wire_parser(parser)
        kind, group, ttl, size = parser.get_struct("!HHIH")
        with parser.restrict_to(size):
            yield name, kind, ttl, _value(parser, group & ~FLUSH, kind)


def _value(parser, group, kind):
    """What a record says. Unlike other DNS, mDNS may compress names in SRV and NSEC (RFC 6762, section 18.14)."""
    if kind == dns.rdatatype.SRV:
        numbers = parser.get_struct("!HHH")
        return SRV(group, kind, *numbers, dns.name.from_wire_parser(parser))
    if kind == dns.rdatatype.NSEC:
        return dns.rdata.GenericRdata(group, kind, parser.get_remaining())
    return dns.rdata.from_wire_parser(group, kind, parser)
