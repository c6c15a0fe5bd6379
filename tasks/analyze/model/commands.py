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
    ON_A_HOST,
    SQL,
    SQL_CHANGES,
    only_looks,
    program_of,
    stages_of,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def refused(text: str) -> str | None:
    """The first command in a text that does more than look, or of which that is not known; None if there is none."""
    return next((command for command in _commands(text) if not only_looks(command)), None)


def runs_on_a_host(text: str) -> bool:
    """Whether a text has a command that is about the machine on which it runs."""
    return any(program_of(shown) in ON_A_HOST for command in _commands(text) for shown in stages_of(command)[:1])


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

_SHELL_ARGUMENT = re.compile(r"-\w|/|~/|\$|[\"'<>|;&*%]|\d+$")


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
    for part in _parts(rest):
        if (command := _command_in(part)) is not None:
            yield command


def _parts(text: str) -> list[str]:
    """The sentences and clauses of a text. What stands between quotes is not cut."""
    quoted = [found.span() for found in _QUOTED.finditer(text)]
    parts: list[str] = []
    start = 0
    for found in _PART.finditer(text):
        if not any(begin < found.start() < end for begin, end in quoted):
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]


def _command_in(part: str) -> str | None:
    """The command that begins somewhere in a part of a sentence; None if it is prose."""
    words = list(re.finditer(r"\S+", part))
    for place, word in enumerate(words):
        following = words[place + 1][0] if place + 1 < len(words) else ""
        name = word[0].strip("(\"',;")
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
    " base64 openvpn wg consul vault etcdctl aws"
)
"""Programs that change something, or execute what they are given: known so that they are recognized in a sentence."""
