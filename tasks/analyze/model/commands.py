"""Commands in the words of a model: which there are, whether they only look, and where they have to run. Pure.

`looking.py` says which commands are allowed. Prose such as "Restart mysqld on db-77" is no command, but a person's
decision.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.analyze.model.looking import (
    CMDLET,
    LOOKING_CMDLET,
    LOOKS,
    SQL,
    SQL_CHANGES,
    is_on_a_host,
    only_looks,
    stages_of,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def refused(text: str) -> str | None:
    """The first command in a text that does more than look, or of which that is not known; None if there is none."""
    return next((command for command in _commands(text) if not only_looks(command)), None)


def runs_on_a_host(text: str) -> bool:
    """Whether a text has a command that is about the machine on which it runs."""
    return any(is_on_a_host(shown) for command in _commands(text) for shown in stages_of(command)[:1] if shown)


def is_command(text: str) -> bool:
    """Whether a text is a command, and nothing else."""
    return text.strip().rstrip(".") in _commands(text)


# What is a command


_SPAN = re.compile(r"```(.*?)```|`([^`]*)`", re.DOTALL)
_PART = re.compile(r"\n|[.,:](?=\s)\s|\s\u2013\s|\s-\s|(?<=\s)(?:then|and)\s")
_QUOTED = re.compile(r"(?<=[\s=(])(?:\"[^\"]*\"|'[^']*')")
_SHELL = re.compile(r"\$\(|[<>]\(|\$\{|&&|\|\||>>|&>|\s\|\s?|\||>\s?/|<\s?/|`|\(\)\s*\{|;\s*\S+\s+-")
_OPTION = re.compile(r"(?:^|\s)--?[A-Za-z][\w-]*")
_SCRIPT = re.compile(r"(?:^|\s)(?:\.{1,2}/\S+|(?:~?/)?[\w./-]+\.(?:sh|py|pl|rb|bin|run|exe|bat|ps1|jar)(?=\s|$))")
_SERVICE = re.compile(r"\bservice\s\S+\s(?:stop|start|restart|reload|force-\w+)\b")
_CALL = re.compile(r"\b[a-z_]\w*(?:\.\w+)*\([^)\s]*\)|\b[a-z_]\w*(?:\.\w+)+\(")
_ARGUMENT = re.compile(r"-|/|~|\.|\$|[\"'<>|;&*%:]|\d|\w*[=_@/\\*]|\w+\.\w|\w+-\d")

_SHELL_ARGUMENT = re.compile(r"-\w|[A-Za-z]:(?:$|\\)|/|~/|\$|[\"'<>|;&*%]|\d+$")


def _commands(text: str) -> Iterator[str]:
    """What in a text is a command, or looks like one."""
    for span in _SPAN.finditer(text):
        yield (span[1] or span[2]).strip()
    rest = _SPAN.sub(" ", text)
    if found := SQL_CHANGES.search(rest):
        yield found[0]
    if SQL.match(rest):
        yield rest.strip()
        return
    for number, (part, after) in enumerate(_parts(rest)):
        command = _command_in(part)
        if command is None and _is_unknown(part.strip(), begins=number == 0 or after in _BEGINS):
            command = part.strip()
        if command is not None:
            yield command


def _parts(text: str) -> list[tuple[str, str]]:
    """The sentences and clauses of a text, and what stands before each. What stands between quotes is not cut."""
    quoted = [found.span() for found in _QUOTED.finditer(text)]
    parts: list[tuple[str, str]] = []
    start, after = 0, ""
    for found in _PART.finditer(text):
        if not any(begin < found.start() < end for begin, end in quoted):
            parts.append((text[start : found.start()], after))
            start, after = found.end(), found[0].strip()
    return [*parts, (text[start:], after)]


_BEGINS = frozenset({"", ".", ":"})
_FORM_OF_NAME = re.compile(r"(?:/\S*/)?[a-z][a-z0-9+._-]*$")
_SWITCHED = _words(
    "on off up down all apply enable disable reset flush restart start stop block unblock delete remove list show"
    " status info get set edit run exec reload"
)


def _is_unknown(part: str, *, begins: bool) -> bool:
    """Whether a part is written as the command of a program that nobody has listed, and not as a sentence."""
    words = part.rstrip(".").split()
    while words and words[0].casefold() in _BEFORE:
        words, begins = words[1:], True
    if not words or not _FORM_OF_NAME.match(words[0]) or words[0] in _VERBS or words[0] == "on":
        return False
    name, rest = words[0], words[1:]
    if any(word.casefold() in _IN_SENTENCES for word in words):
        return False
    if not rest:
        return begins and re.fullmatch(r"[a-z]+", name) is not None
    argued = any(_SHELL_ARGUMENT.match(word) or re.match(r"\w:|\w+=", word) or word in _SWITCHED for word in rest)
    return begins or argued


def _command_in(part: str) -> str | None:
    """The command that begins somewhere in a part of a sentence; None if it is prose."""
    words = list(re.finditer(r"\S+", part))
    for place, word in enumerate(words):
        following = words[place + 1][0] if place + 1 < len(words) else ""
        name = word[0].strip("(\"',;")
        if place == 0 and name.istitle() and name.casefold() in _DOES and _SHELL_ARGUMENT.match(following):
            return part.strip().rstrip(".")  # some systems read no case
        if not _is_program(name):
            continue
        if _is_used(name, following, begins=place == 0 or words[place - 1][0].casefold() in _BEFORE):
            return part[word.start() :].strip().rstrip(".")
    odd = (_SHELL, _OPTION, _SCRIPT, _CALL, _SERVICE, CMDLET, LOOKING_CMDLET)
    return part.strip() if SQL.match(part) or any(form.search(part) for form in odd) else None


def _is_used(name: str, following: str, *, begins: bool) -> bool:
    """Whether the name of a program is meant as such, by the word that follows it."""
    if name.partition(".")[0] in _ENGLISH:
        return _SHELL_ARGUMENT.match(following) is not None or (begins and (not following or following == "now"))
    if _ARGUMENT.match(following):
        return True
    return (
        (begins and following.casefold() not in _PROSE)
        or following in _SUBCOMMANDS
        or (name in _SURE and following != "")
    )


_BEFORE = _words("run execute use try start: type enter call sudo doas with via by please just do $ #")

_SUBCOMMANDS = _words(
    "get describe logs top delete apply create edit patch scale rollout drain cordon uncordon exec run replace restart"
    " stop start status rm rmi kill prune push pull install uninstall upgrade rollback remove add set del flush reset"
    " destroy plan list show info inspect ps down up reload enable disable mask reboot poweroff incidents"
)

_SURE = _words(
    "kubectl systemctl journalctl curl wget sudo rm dd mkfs chmod chown killall pkill xargs umount wipefs shred dropdb"
    " fdisk parted iptables redis-cli rabbitmqctl nohup alert-pipeline crontab useradd userdel usermod apt-get poweroff"
)
"""Names that are no other word: wherever one stands with something behind it, it is a command."""

_ENGLISH = _words(
    "top free kill find sort host last who w id date service cut head tail mount at format net less more make test"
    " source export screen exec halt reboot shutdown touch truncate watch time set split join init go install column"
    " copy move erase nice batch cat stat node"
)
"""Programs that are words of a sentence, too."""

_VERBS = _words(
    "add adjust allow analyze ask assign back bring call cap change check clean clear close compare confirm"
    " consider contact decide decrease delete deploy disable drain drop enable ensure escalate examine expand"
    " extend fail find fix follow free get give grow identify increase inform inspect investigate isolate keep"
    " kill let limit list look lower make measure monitor move notify open page pause plan provision raise read"
    " rebalance reboot reconnect recover reduce refresh remove renew repair replace report reset resize resolve"
    " restart restore resume retry return revert review rewind roll rotate scale schedule search see send shift"
    " shrink shut skip slow start stop switch take talk tell test throttle trace trigger try tune turn undo update"
    " upgrade use verify wait warn watch"
)
"""Words with which a person is told what to do."""

_IN_SENTENCES = _words(
    "the a an of its it is are was were be been to in at by for from with without whether what which who whose"
    " why how that this these those and or but not no as than then if when while has have had does do did your"
    " their our there every each any some most more both other another after before since until because between"
    " within against"
)
"""Words that stand in sentences, and not in commands."""

_PROSE = _words(
    "the a an what which why whether who how all some this that these its for of up out to on in with by"
    " from any and or"
    " is are was has have space process processes daemon server history"
)
"""Words after which the name of a program stands in a sentence."""


def _is_program(name: str) -> bool:
    return name in LOOKS or name in _DOES or name.partition(".")[0] in _DOES or name.removesuffix(".sh") in LOOKS


_DOES = _words(
    "rm dd mkfs bash sh zsh dash ksh fish python python2 python3 perl ruby php node lua java go kill killall pkill"
    " skill"
    " shutdown reboot poweroff halt init telinit chmod chown chgrp chattr setfacl mv cp ln touch truncate tee xargs"
    " install curl wget nc ncat netcat socat telnet ftp sftp ssh scp rsync useradd usermod userdel groupadd passwd"
    " chpasswd visudo apt apt-get aptitude dpkg yum dnf rpm zypper apk snap pip pip3 npm yarn make gcc cargo at batch"
    " eval exec source export trap alias fdisk sfdisk parted wipefs shred swapoff umount fsck e2fsck tune2fs resize2fs"
    " lvremove lvextend vgremove pvremove terraform ansible ansible-playbook gcloud az puppet chef salt mongo mongosh"
    " dropdb createdb pg_ctl pg_resetwal pg_dump pg_restore mysqladmin mysqldump powershell pwsh cmd reg del"
    " erase"
    " rmdir"
    " mkdir format net sc taskkill nohup setsid screen tmux chroot nsenter unshare su sudo doas env time nice watch"
    " alert-pipeline prefect vi vim nano ed sysctl tc ifconfig ifup ifdown ufw firewall-cmd modprobe rmmod insmod"
    " kexec mkswap blkdiscard hdparm sgdisk losetup cryptsetup update-grub grub-install logrotate unlink find-delete"
    " base64 openvpn wg consul vault etcdctl aws printenv nmcli netplan rfkill diskpart emacs less more"
)
"""Programs that change something, or execute what they are given: known so that they are recognized in a sentence."""
