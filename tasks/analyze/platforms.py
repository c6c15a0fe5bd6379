"""Titles and commands of recommendations where the target is no host with Linux: Windows, and pods of Kubernetes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tasks.analyze.topics import Topic

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,252}")
"""Names that are safe in a shell."""

ON_WINDOWS: Mapping[Topic, tuple[str, ...]] = {
    Topic.MEMORY: (
        "Find what uses the memory",
        "Get-Process | Sort-Object WorkingSet -Descending | Select-Object -First 10",
    ),
    Topic.DISK: ("Find what fills the disk", "Get-Volume", "Get-ChildItem C:\\ -Directory -Force"),
    Topic.CPU: ("Find what uses the CPU", "Get-Process | Sort-Object CPU -Descending | Select-Object -First 10"),
    Topic.NETWORK: ("Find where the network ends", "Get-NetAdapter", "Get-NetIPConfiguration"),
    Topic.PROCESS: (
        "Find which service stopped, and why",
        "Get-Service | Where-Object {$_.StartType -eq 'Automatic' -and $_.Status -ne 'Running'}",
        "Get-WinEvent -LogName System -MaxEvents 50",
    ),
}
"""Of each topic the title and the commands of PowerShell."""

_WORKLOADS = ("pod", "deployment", "statefulset", "daemonset")

_OF_PODS: Mapping[Topic, tuple[str, ...]] = {
    Topic.MEMORY: ("Find what uses the memory, and its limit", "{top}", "{describe}"),
    Topic.CPU: ("Find what uses the CPU, and its limit", "{top}", "{describe}"),
    Topic.PROCESS: ("Find why it stopped: read its last log", "{logs}", "{describe}"),
}


def on_kubernetes(topic: Topic, labels: Mapping[str, str]) -> tuple[str, ...] | None:
    """The title and the commands for a pod, or what makes pods, which the labels of the target name.

    They work wherever kubectl does. None if the labels name none, or with a name that is unsafe in a shell, or if there
    is nothing to say of the topic.
    """
    kind = next((name for name in _WORKLOADS if labels.get(name)), None)
    if kind is None or topic not in _OF_PODS or not labels.get("namespace"):
        return None
    name, namespace, container = labels[kind], labels["namespace"], labels.get("container", "")
    if not all(SAFE.fullmatch(one) for one in (name, namespace, container or name)):
        return None
    kubectl, of = f"kubectl -n {namespace}", name if kind == "pod" else f"{kind}/{name}"
    in_it = f" -c {container}" if container else ""
    commands = {
        "top": f"{kubectl} top pod {name} --containers" if kind == "pod" else f"{kubectl} top pod | grep {name}",
        "describe": f"{kubectl} describe {kind} {name}",
        "logs": f"{kubectl} logs {of}{in_it} --previous --tail=50",
    }
    return tuple(part.format(**commands) for part in _OF_PODS[topic])


_KUBE_NODE = re.compile(r"kube_?(let|node)_?\w*(ready|unreachable|pressure|flapping|down)", re.IGNORECASE)
_KUBE_QUOTA = re.compile(r"kube\w*quota", re.IGNORECASE)


def on_cluster(labels: Mapping[str, str]) -> tuple[str, ...] | None:
    """The title and the command for a node or a quota of Kubernetes that an alert names; None if it names none."""
    name, node, namespace = (labels.get(label, "") for label in ("alertname", "node", "namespace"))
    if _KUBE_NODE.match(name) and SAFE.fullmatch(node):
        return "See why the node is not ready", f"kubectl describe node {node}"
    if (_KUBE_QUOTA.match(name) or labels.get("resourcequota")) and SAFE.fullmatch(namespace):
        return "See what the quota allows, and who asks for how much", f"kubectl -n {namespace} describe quota"
    return None
