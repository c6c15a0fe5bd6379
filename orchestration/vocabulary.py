"""The words by which texts are compared: what they measure, deny, and call well or ill. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RESOURCES: Mapping[str, frozenset[str]] = {
    "memory": _words("memory ram mem oom heap memavailable memfree"),
    "swap": _words("swap swapping"),
    "cpu": _words("cpu cpus processor processors core cores load load1 load5 load15"),
    "disk": _words("disk disks filesystem filesystems storage volume volumes partition partitions mountpoint fs"),
    "inode": _words("inode inodes"),
    "network": _words("network packet packets interface link bandwidth"),
    "latency": _words("latency latencies p50 p90 p95 p99 duration"),
    "certificate": _words("certificate certificates cert certs tls ssl"),
    "dns": _words("dns nameserver resolver nxdomain servfail enotfound"),
    "connection": _words("connection connections pool clients"),
    "queue": _words("queue queues backlog lag"),
    "error": _words("error errors 5xx 4xx"),
    "deploy": _words(
        "deploy deploys deployed deployment deployments release released releases rollout rolled change changes changed"
    ),
}
"""What measurements are of, with other words for each."""

RESOURCE_OF = {word: name for name, some in RESOURCES.items() for word in some}
CAPACITIES = frozenset({"memory", "swap", "cpu", "disk", "inode", "connection"})
"""What can be full."""

NEGATIONS = _words(
    "not no never none without cannot nor neither nothing nobody nicht kein keine hardly isn't aren't wasn't weren't"
    " doesn't don't didn't hasn't haven't hadn't won't can't couldn't wouldn't shouldn't rarely nowhere unable"
)
SURELY_WELL = _words("fine healthy normal ok okay harmless good stable idle recovered")
SURELY_ILL = _words(
    "full exhausted overloaded saturated failing failed down critical broken short unreachable crashed unhealthy"
    " starved leaking stuck dead"
)
"""Words that judge whatever they are said of: a certificate can be valid and yet the trouble."""

WELL = SURELY_WELL | _words(
    "reachable responsive responding answering successful succeeded valid enough plenty well unaffected ample"
)
FULL = _words(
    "full exhausted overloaded saturated short overcommitted pegged maxed starved overwhelmed depleted overloading"
    " filled overused high low"
)
ILL = (
    FULL
    | SURELY_ILL
    | _words(
        "fail fails failure failures crashes crash leaks expired expires invalid unavailable refused refuses error"
        " errors corrupted corrupt lost missing stopped timeout timeouts nxdomain servfail enotfound econnrefused"
        " etimedout degraded overflowing killed lacks lack fill fills behind"
    )
)
FREE = _words("free idle available left remaining unused headroom")

COMMON = _words(
    "the and that this with from for are was were has have had been its it is on of to in at by as an or be not no"
    " now there which will would can could should may might after before about because since than then also into"
    " over under more most very all any some one two host alert check evidence shows show says said likely probably"
    " cause causes caused due problem issue system"
)
"""Words of every text: that two texts share them says nothing."""

GENERIC = COMMON | _words(
    "used uses use using usage utilization utilisation utilized percent pct full free busy idle available left"
    " remaining high low above below limit normally normal currently current total value rate level only already"
    " just still nearly almost less least many much few every each being does do did done must a but without these"
    " those here they them their what when where while until during so too never none ago minute minutes hour hours"
    " second seconds day days week month ms min sec bytes byte kb mb gb tb kib mib gib tib per again once between"
    " within up out off down back long longer three four five six seven eight nine ten twenty thirty forty fifty"
    " sixty seventy eighty ninety hundred thousand million half first last next critical warning info firing"
    " resolved ok hosts alerts checks probable seen nothing else whose whom how nobody trouble wrong rise rises rose"
    " rising risen grow grows grew growing fall falls fell falling increase increases increased increasing decrease"
    " decreased drop drops dropped jump jumps jumped spike spikes spiked climb climbs climbed slow slower fast"
    " unusual usual higher lower big large small new old bad good start starts started began begin stop stops"
    " stopped end ends ended run runs ran running work works need needs reach reaches reached exceed exceeds"
    " exceeded cross hit hits got gets get goes went gone become becomes became remain remains stay stays shown fill"
    " fills filled filling fail fails failed failing broke break breaks broken answer answers answered wait waits"
    " waited exist exists find finds found happen happens happened came come comes rest sees behind able fine"
    " healthy wasn't exhausted overloaded saturated short dead stuck unreachable unavailable crashed crashes crash"
    " working set preceded following followed active ready other another same both enough plenty space amount times"
    " time well utc made make makes something depends depend name names resolve reachable target targets november"
    " december january february march april june july august september october queries instead around roughly"
    " approximately circa io api http https url id os"
)
"""Words that say nothing of what a statement is about."""


def stem(word: str) -> str:
    """A word without its ending."""
    if any(letter.isdigit() for letter in word):
        return word
    for ending in ("ings", "ing", "ies", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word.removesuffix("e") if len(word) > 4 else word
