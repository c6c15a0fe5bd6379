"""Which addresses outgoing checks may connect to. Pure: names are resolved elsewhere, and each address is judged here.

An alert comes from somebody else, and so does the target that it names. Without these rules an alert could make this
host ask the metadata service of its cloud, or a service that listens on loopback.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network

_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            *("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23"),  # AWS, and most
            *("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd20:ce::254", "169.254.0.23"),
        ),
    )
)
"""Addresses at which clouds give their machines credentials: AWS and most others, then Alibaba, Azure, Oracle, Google,
Tencent."""

_NEVER = tuple(map(ipaddress.ip_network, ("0.0.0.0/8", "240.0.0.0/4", "fec0::/10")))
_NEVER_NETWORKS = (
    *_NEVER,
    *map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10", "224.0.0.0/4", "ff00::/8")),
)
"""The networks of which no address may be allowed."""

_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "instance-data", "metadata.azure.internal"})

_WITH_IPV4 = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96")))
"""Networks whose addresses end with the IPv4 address that a gateway sends to: NAT64, IPv4-compatible, translated."""

_ISATAP = (0x00005EFE, 0x02005EFE)


@dataclass(frozen=True)
class AddressList:
    """Networks, addresses and host names. `*.example.com` is every name below example.com."""

    networks: tuple[_Network, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> AddressList:
        """Read such entries.

        Raises:
            ValueError: one is neither a network nor a name.
        """
        networks, names = list[_Network](), list[str]()
        for entry in entries:
            if (network := _network(entry)) is not None:
                networks.append(network)
            else:
                names.append(_name(entry))
        return cls(tuple(networks), tuple(names))

    def has_name(self, name: str) -> bool:
        """Whether a host's name is in the list."""
        plain = plain_name(name)
        return any(plain.endswith(entry[1:]) if entry.startswith("*.") else plain == entry for entry in self.names)

    def has_address(self, address: IPAddress) -> bool:
        """Whether an address is in one of the networks."""
        return any(address.version == network.version and address in network for network in self.networks)


@dataclass(frozen=True)
class AddressRules:
    """Which addresses may be connected to: public ones, and what `allow` names; never what `deny` names."""

    allow: AddressList = AddressList()
    deny: AddressList = AddressList()

    def idle_allowances(self, entries: Iterable[str]) -> Iterator[str]:
        """What of the entries of `allow` has no effect, each with the reason."""
        for entry in entries:
            one = AddressList.parse([entry])
            refused = [self.refusal_of_name(name) for name in one.names if not name.startswith("*.")]
            refused += [self._of_network(network) for network in one.networks]
            yield from filter(None, refused)

    def _of_network(self, network: _Network) -> str:
        if any(_is_within(network, denied) for denied in self.deny.networks):
            return f"{network} is in CHECKERS_DENY"
        first = connectable(network.network_address)
        kind = _never(first) if network.num_addresses == 1 else ""
        if not kind and any(_is_within(network, never) for never in _NEVER_NETWORKS):
            kind = _never(network.broadcast_address)
        return f"{network} is {kind}, which is never checked" if kind else ""

    def refusal_of_name(self, name: str) -> str:
        """Why a host of this name may not be connected to, whatever its address is; "" if that decides."""
        if self.deny.has_name(name):
            return f"{plain_name(name)} is in CHECKERS_DENY"
        if plain_name(name) in _METADATA_NAMES:
            return f"{plain_name(name)} is the metadata service of a cloud, which is never checked"
        return ""

    def refusal(self, name: str, address: IPAddress) -> str:
        """Why a host of this name, which has this address, may not be connected to; "" if it may.

        `name` is the text that the target was given as, which may be the address itself.
        """
        reasons = [
            self.refusal_of_name(name),
            *(self._of_address(name, one) for one in (connectable(address), *_embedded(address))),
        ]
        return next(filter(None, reasons), "")

    def _of_address(self, name: str, address: IPAddress) -> str:
        if self.deny.has_address(address):
            return f"{address} is in CHECKERS_DENY"
        if kind := _never(address):
            return f"{address} is {kind}, which is never checked"
        if address.is_global or self.allow.has_address(address) or self.allow.has_name(name):
            return ""
        kind = "a loopback address" if address.is_loopback else "a private address"
        return f"{address} is {kind}: CHECKERS_ALLOW permits networks and hosts"


def plain_name(name: str) -> str:
    """A host's name in lower case, without a dot at its end."""
    return name.strip().rstrip(".").lower()


def connectable(address: IPAddress) -> IPAddress:
    """The address to connect to: an IPv4 address that is written as IPv6 is this IPv4 address."""
    return getattr(address, "ipv4_mapped", None) or address


def _never(address: IPAddress) -> str:
    """What an address is that nobody may allow; "" if it is none such."""
    if address in _METADATA:
        return "the metadata service of a cloud"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_unspecified:
        return "no address of a host"
    if any(address.version == network.version and address in network for network in _NEVER):
        return "a reserved address"
    return ""


def _embedded(address: IPAddress) -> list[IPAddress]:
    """The IPv4 addresses within an IPv6 address, at which a packet to it can end up."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    loopback_or_none = int(address) < 2
    if not loopback_or_none and (
        any(address in network for network in _WITH_IPV4) or int(address) >> 32 & 0xFFFFFFFF in _ISATAP
    ):
        found.append(low)
    return [one for one in found if one is not None]


def _is_within(network: _Network, other: _Network) -> bool:
    return (
        network.version == other.version and network.prefixlen >= other.prefixlen and network.network_address in other
    )


def _network(entry: str) -> _Network | None:
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None


def _name(entry: str) -> str:
    name = plain_name(entry)
    labels = name.removeprefix("*.").split(".")
    usable = all(label and label.replace("-", "").replace("_", "").isalnum() for label in labels)
    if not usable or not any(map(str.isalpha, labels[-1])):
        raise ValueError(
            f"expected networks such as 10.0.0.0/8, and names such as db-1 or *.example.com, got {entry[:80]!r}"
        )
    return name
