"""Commands that only look, as a list of what is allowed. Pure.

A program that the list does not have is refused, and so is an option that is not known to be harmless where that
matters, a substitution, a redirection, and a second command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence

Arguments = Sequence[str]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CMDLET = re.compile(r"\b(?!Get-|Test-|Measure-|Select-|Sort-|Where-|Format-)[A-Z][a-z]+-[A-Z][A-Za-z]+\b(?!-)")
LOOKING_CMDLET = re.compile(r"^\s*(?:Get|Test|Measure)-[A-Z][A-Za-z]+\b")
SQL = re.compile(r"^\W*(?:select\s|show\s+\w|explain\s|describe\s+\w)", re.IGNORECASE)
SQL_CHANGES = re.compile(
    r"\b(?:drop|truncate|alter|create|rename)\s+(?:table|database|schema|index|user|role|view|system|tablespace"
    r"|keyspace|collection|sequence|function|trigger|extension)\b|\bdelete\s+from\s+[\w.\"]+\s*(?:;|$|where\b)"
    r"|\bDELETE\s+FROM\b|\bTRUNCATE\s+\w|\bupdate\s+[\w.\"]+\s+set\b|\binsert\s+into\b|\breplace\s+into\b"
    r"|\b(?:grant|revoke)\s+\w+.{0,60}\b(?:to|from)\b|\b(?:flushall|flushdb)\b|\bpg_(?:terminate|cancel)_backend\b"
    r"|\bset\s+(?:global|persist)\b|\binto\s+(?:out|dump)file\b|\bcopy\s+.{0,80}\b(?:program|to)\s+'|\bshutdown\s+immediate\b"
    r"|\bpg_(?:read|write|ls)\w*|\blo_(?:import|export)\b|\b(?:dblink|xp_cmdshell|load_file|sleep|pg_sleep|benchmark)\b"
    r"|\bkill\s+(?:query|connection)\b|\b(?:reset|purge|stop|start|change)\s+(?:master|slave|replica|binary)\b",
    re.IGNORECASE,
)

_SECRET = re.compile(
    r"shadow|passw|secret|credential|token|api_?-?key|private|\.env\b|\benviron|\bid_(?:rsa|dsa|ecdsa|ed25519)|\.key\b"
    r"|\.(?:ssh|aws|kube|gnupg|docker|netrc|pgpass|my\.cnf|\w*history)\b|\.(?:p12|pfx|jks|keytab|tfstate|tfvars)\b"
    r"|pg_authid|authentication_string|mysql\.user|requirepass|masterauth|user_mapping|sudoers|/pki/",
    re.IGNORECASE,
)
"""What a command reads only to show a secret: a page goes to a screen, a ticket, a log."""

_HARMLESS = re.compile(r"\d?>\s?/dev/null|<\s?/dev/null|2>&1")
_QUOTES = re.compile(r"'[^']*'|\"[^\"]*\"")
_EXECUTES = re.compile(r"[;&<>`\n{}]|\$\(|\$\{|\\")


def only_looks(command: str) -> bool:
    """Whether a command is known to change nothing. What cannot be read is not known."""
    if SQL_CHANGES.search(command) or _SECRET.search(command):
        return False
    if SQL.match(command):
        return _EXECUTES.search(_QUOTES.sub("''", command).rstrip("; ").replace("<", "").replace(">", "")) is None
    plain = _HARMLESS.sub(" ", command)
    # Between single quotes a shell reads nothing; between double ones it substitutes.
    if _EXECUTES.search(_QUOTES.sub("''", plain)) or re.search(r"\"[^\"]*(?:`|\$\()[^\"]*\"", plain):
        return False
    if LOOKING_CMDLET.match(plain):
        return CMDLET.search(plain) is None
    stages = stages_of(plain)
    return bool(stages) and all(_looks(stage) for stage in stages)


def stages_of(command: str) -> list[list[str]]:
    """The words of each program of a pipe; one that cannot be read is empty."""
    lexer = shlex.shlex(_HARMLESS.sub(" ", command), posix=True, punctuation_chars="|")
    lexer.whitespace_split, lexer.commenters = True, ""
    stages: list[list[str]] = [[]]
    try:
        for word in lexer:
            if set(word) == {"|"}:
                stages.append([] if word == "|" else [""])
            else:
                stages[-1].append(word)
    except ValueError:
        return [[]]
    return stages


def program_of(words: Arguments) -> str:
    """The program that these words call; "" if there are none."""
    name = words[1] if len(words) > 1 and words[0] in ("sudo", "doas") else words[0] if words else ""
    return re.sub(r"^(?:/usr)?/s?bin/", "", name).removesuffix(".sh")


def _looks(words: Arguments) -> bool:
    may = LOOKS.get(program_of(words))
    return may is not None and may(words[2:] if words[0] in ("sudo", "doas") else words[1:])


_PLAIN_FILE = re.compile(
    r"/var/log/[\w./*-]+|/proc/(?!\S*(?:environ|mem$|kcore|/fd|/root|/cwd))[\w./*-]+|/sys/[\w./*-]+"
    r"|[\w./-]+\.log(?:\.\d+)?(?:\.gz)?"
    r"|/etc/(?:hosts|resolv\.conf|fstab|os-release|nsswitch\.conf|hostname|sysctl\.conf|services|timezone|exports|mtab)"
)
"""Files that hold what machines say of themselves. Settings and data may hold secrets."""


def _reads(skipped: int = 0, *, bad: str = "") -> Callable[[Arguments], bool]:
    """Reads plain files alone. The first `skipped` words are no files but what is searched."""
    without = _without(*bad.split())

    def may(arguments: Arguments) -> bool:
        words = [one for one in arguments if not one.startswith("-")][skipped:]
        files = [one for one in words if re.search(r"[A-Za-z~.]", one)]
        deep = any(re.match(r"-\w*[rRf]|--(?:recursive|dereference-recursive|file|include)", one) for one in arguments)
        plain = all(".." not in one and _PLAIN_FILE.fullmatch(one) for one in files)
        return plain and (not deep or bool(files) or not skipped) and without(arguments)

    return may


def _any(_arguments: Arguments) -> bool:
    return True


def _without(*bad: str) -> Callable[[Arguments], bool]:
    """All arguments but these: an option with two dashes by its beginning, one with one dash by its letter."""
    long = tuple(one for one in bad if not re.fullmatch(r"-\w", one))
    letters = frozenset(one[1] for one in bad if re.fullmatch(r"-\w", one))

    def may(arguments: Arguments) -> bool:
        return not any(
            (long and one.startswith(long)) or (re.match(r"-\w", one) is not None and letters & set(one[1:]))
            for one in arguments
        )

    return may


def _only(*options: str) -> Callable[[Arguments], bool]:
    """Nothing but these words, and numbers."""
    return lambda arguments: all(one in options or one.isdecimal() for one in arguments)


def _each(pattern: str) -> Callable[[Arguments], bool]:
    """At least one word, and each of this form."""
    return lambda arguments: bool(arguments) and all(re.fullmatch(pattern, one) is not None for one in arguments)


def _needs(*some: str, **rest: str) -> Callable[[Arguments], bool]:
    """At least one of these options, and none of `without`."""
    others = _without(*rest.get("without", "").split())
    return lambda arguments: any(one in some for one in arguments) and others(arguments)


def _verbs(*verbs: str, values: str = "", none: bool = False) -> Callable[[Arguments], bool]:
    """One of these subcommands first, after known options. `values` are the options that take a value."""
    takes = _words(values)
    allowed = [tuple(verb.split()) for verb in verbs]

    def may(arguments: Arguments) -> bool:
        left = list(arguments)
        while left and left[0].startswith("-"):
            option = left.pop(0)
            if option in takes and left:
                left.pop(0)
            elif option.partition("=")[0] not in takes and (option,) not in allowed:
                return False
            elif (option,) in allowed:
                return all(one.startswith("-") for one in left)
        return any(tuple(left[: len(verb)]) == verb for verb in allowed) if left else none

    return may


_IP_CHANGES = _words("add del delete set change replace flush append exec restore attach detach a d r s f")


def _ip(arguments: Arguments) -> bool:
    named = [one for one in arguments if not one.startswith("-")]
    return bool(named) and _IP_CHANGES.isdisjoint(named[1:]) and "-b" not in arguments and "-batch" not in arguments


def _awk(arguments: Arguments) -> bool:
    return _reads(1)([one for one in arguments if one != "-F"]) and not any(
        re.search(r"system|getline|[|>]|^-[fiEl]|^--", one) for one in arguments
    )


def _sed(arguments: Arguments) -> bool:
    prints = len(arguments) >= 2 and arguments[0] == "-n" and re.fullmatch(r"[\d,$]+p", arguments[1]) is not None
    return prints and not any(one.startswith("-") for one in arguments[2:]) and _reads()(arguments[2:])


def _openssl(arguments: Arguments) -> bool:
    writes = _without("-out", "-signkey", "-keyout", "-writerand", "-sess_out", "-keylogfile", "-provider", "-engine")
    return _verbs("s_client", "x509", "verify")(arguments) and writes(arguments)


def _sql_of(*flags: str, values: str) -> Callable[[Arguments], bool]:
    """A client of a database that gets one statement, which only reads."""
    takes = _words(values)

    def may(arguments: Arguments) -> bool:
        left, read = list(arguments), False
        while left:
            word = left.pop(0)
            if word in flags and left:
                said = left.pop(0)
                if not SQL.match(said) or SQL_CHANGES.search(said) or ";" in said.rstrip("; "):
                    return False
                read = True
            elif word in takes and left:
                left.pop(0)
            elif word.startswith("-"):
                return False
        return read

    return may


_KUBECTL = _verbs(
    "get", "describe", "logs", "top", "events", "explain", "version", "cluster-info", "api-resources",
    "rollout status", "rollout history", "auth can-i",
    values="-n --namespace --context --cluster --kubeconfig -l --selector",
)  # fmt: skip
_DOCKER = _verbs(
    "ps", "logs", "stats", "images", "top", "port", "version", "info", "events", "diff", "history", "pods",
    "compose ps", "compose logs", "container ls", "image ls", "system df", "service ls", "service ps", "service logs",
    "node ls",
)  # fmt: skip

_ON_A_HOST_LOOKS: Mapping[str, Callable[[Arguments], bool]] = {
    **dict.fromkeys(
        _words(
            "df du free ps uptime vmstat iostat mpstat pidstat lsblk lsof lscpu uname whoami who w"
            " id last nproc stat ls"
            " tr"
            " pgrep pidof pstree pmap lsmod lspci lsusb"
            " findmnt"
            " lvs vgs pvs netstat nstat numastat slabtop top htop iotop sar getent blkid mailq"
        ),
        _any,
    ),
    **dict.fromkeys(_words("cat head tail wc zcat nl cut"), _reads()),
    **dict.fromkeys(_words("grep egrep fgrep zgrep jq"), _reads(1)),
    "ps": lambda arguments: not any(re.fullmatch(r"(?!-)[a-zA-Z]*[eE][a-zA-Z]*|-E", one) for one in arguments[:1]),
    "sort": _reads(bad="-o --output --compress-program -T --files0"),
    "uniq": lambda arguments: all(one.startswith("-") or one.isdecimal() for one in arguments),
    "awk": _awk,
    "sed": _sed,
    "find": _without("-exec", "-ok", "-delete", "-fprint", "-fls"),
    "dmesg": _without("-c", "-C", "-D", "-E", "-n", "--clear", "--read-clear", "--console"),
    "ss": _without("-K", "--kill", "-D", "--diag"),
    "ip": _ip,
    "date": lambda arguments: all(one.startswith("+") or one in ("-u", "-R", "-Is") for one in arguments),
    "hostname": lambda arguments: all(one in ("-f", "-I", "-i", "-s", "-A") for one in arguments),
    "journalctl": _without("--rotate", "--vacuum", "--flush", "--sync", "--relinq", "--setup", "--update", "--smart"),
    "systemctl": _verbs(
        "status", "--failed", "list-units", "list-timers", "list-unit-files", "list-dependencies", "is-active",
        "is-failed", "is-enabled", "is-system-running", values="--type --state -t",
    ),
    "service": lambda arguments: len(arguments) == 2 and arguments[1] == "status",
    "smartctl": _needs("-a", "-H", "-i", "-x", "-A", "-l", "--all", "--health", "--scan", without="-s -t -X -o -S -B"),
    "mdadm": _needs("--detail", "-D", "--examine", "-E", without="--stop --remove --fail --zero --create -S -r -f -C"),
    "ethtool": lambda arguments: all(not one.startswith("-") or one in ("-S", "-i", "-k", "-m") for one in arguments),
    "zpool": _verbs("status", "list", "iostat", "history"),
    "zfs": _verbs("list", "get"),
    "ceph": _verbs("status", "-s", "health", "df", "osd tree", "osd df", "osd status", "osd stat", "mon stat"),
    "timedatectl": _verbs("status", "timesync-status", none=True),
    "chronyc": _verbs("tracking", "sources", "sourcestats", values="-n"),
    "ntpq": _only("-p", "-n", "-pn"),
    "nginx": _only("-t", "-T", "-v", "-V"),
    "apachectl": _only("-t", "-S", "configtest", "status"),
    "iptables": _each(r"-[LSnv]+|-t|--line-numbers|(?!-)\w+"),
    "nft": _verbs("list"),
    "conntrack": _only("-L", "-S", "-C"),
    "swapon": _only("--show", "-s"),
    "crontab": _only("-l"),
    "mount": _only(),
    "sysctl": _each(r"-[an]|[a-z_0-9.]+"),
    "supervisorctl": _verbs("status"),
    "postqueue": _only("-p"),
    "docker": _DOCKER, "podman": _DOCKER, "nerdctl": _DOCKER, "crictl": _DOCKER,
    "tcpdump": _without("-A", "-X", "-x", "-w", "-W", "-z", "-C", "-G", "-Z"),
}  # fmt: skip
"""Programs that look at the machine on which they run, and with which arguments they only look."""

_ANYWHERE_LOOKS: Mapping[str, Callable[[Arguments], bool]] = {
    **dict.fromkeys(_words("dig host nslookup drill whois traceroute tracepath mtr pg_isready"), _any),
    "ping": _without("-f"),
    "openssl": _openssl,
    "nc": lambda arguments: _each(r"-v?zv?")(arguments[:1]) and _each(r"[\w.:][\w.:-]*")(arguments[1:]),
    "kubectl": _KUBECTL, "oc": _KUBECTL,
    "helm": _verbs("list", "ls", "status", "history", values="-n --namespace --kube-context"),
    "psql": _sql_of("-c", values="-h -p -U -d -At -A -t -x"),
    "mysql": _sql_of("-e", values="-h -P -u -D"),
    "redis-cli": _verbs(
        "info", "INFO", "ping", "PING", "dbsize", "DBSIZE", "slowlog get", "SLOWLOG GET", "client list", "CLIENT LIST",
        "memory stats", "MEMORY STATS", "memory doctor", "latency doctor", "latency latest",
        "config get maxmemory", "config get maxclients",
        "--bigkeys", "--stat", "--latency", "role", "ROLE", "cluster info", "cluster nodes", values="-h -p -n",
    ),
    "rabbitmqctl": lambda arguments: _each(r"list_\w+|status|cluster_status|report")(arguments[:1]),
    "kafka-consumer-groups": _needs("--describe", "--list", without="--reset --delete --execute --to- --shift"),
    "kafka-topics": _needs("--describe", "--list", without="--delete --create --alter"),
    "nodetool": _verbs("status", "info", "tpstats", "compactionstats", "netstats", "ring", values="-h -p"),
    "git": _verbs("log", "show", "diff", "status", "blame"),
    "aws": lambda arguments: _each(r"(?:describe|list)-[\w-]+|get-metric-[\w-]+")(arguments[1:2]),
}  # fmt: skip
"""Programs that look at something else, wherever they run."""

LOOKS: Mapping[str, Callable[[Arguments], bool]] = {**_ON_A_HOST_LOOKS, **_ANYWHERE_LOOKS}


def is_on_a_host(words: Arguments) -> bool:
    """Whether a program looks at the machine on which it runs: also a client that is told no other one."""
    program = program_of(words)
    told = any(re.match(r"-h\b|--host|-h\S", one) for one in words[1:])
    return program in _ON_A_HOST_LOOKS or (program in _CLIENTS and not told) or words[:2] == ["openssl", "x509"]


_CLIENTS = _words("psql mysql redis-cli rabbitmqctl nodetool pg_isready")
