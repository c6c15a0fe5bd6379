"""All checkers. To add a checker, write its module beside this one and add a line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tasks.check.checkers.base import Checker, local_checker
from tasks.check.checkers.cpu import CpuConfig, check_cpu
from tasks.check.checkers.disk import DiskConfig, check_disk
from tasks.check.checkers.dns import DnsConfig, check_dns, unfit_for_dns
from tasks.check.checkers.http import HttpConfig, check_http, unfit_for_http
from tasks.check.checkers.memory import MemoryConfig, check_memory
from tasks.check.checkers.network import NetworkConfig, look_at_network, unfit_for_network
from tasks.check.checkers.process import ProcessConfig, check_process
from tasks.check.checkers.prometheus import PrometheusConfig, check_prometheus, unfit_for_prometheus
from tasks.check.checkers.tcp import TcpConfig, check_tcp, unfit_for_tcp
from tasks.check.checkers.tls import TlsConfig, check_tls, unfit_for_tls

AnyChecker = Checker[Any]
"""A checker with any type of options."""

CHECKERS: Mapping[str, AnyChecker] = MappingProxyType(
    {
        checker.name: checker
        for checker in (
            local_checker("cpu", CpuConfig, check_cpu),
            local_checker("memory", MemoryConfig, check_memory),
            local_checker("disk", DiskConfig, check_disk),
            Checker("network", NetworkConfig, look_at_network, unfit_for_network),
            local_checker("process", ProcessConfig, check_process),
            Checker("http", HttpConfig, check_http, unfit_for_http),
            Checker("tcp", TcpConfig, check_tcp, unfit_for_tcp),
            Checker("tls", TlsConfig, check_tls, unfit_for_tls),
            Checker("dns", DnsConfig, check_dns, unfit_for_dns),
            Checker("prometheus", PrometheusConfig, check_prometheus, unfit_for_prometheus),
        )
    }
)
"""The checkers by name."""
