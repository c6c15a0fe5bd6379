"""Where an alert happens: what a go-between speaks of, and never the go-between."""

from __future__ import annotations

from typing import Any

import pytest

from orchestration.alert import Alert
from orchestration.places import is_of_go_between, place_of
from orchestration.target import OwnHost, target_of
from tasks.ingest.sources import parse_push
from tasks.notify.message import render_message
from tests.test_message import a_subject

OWN = OwnHost("web-1", frozenset({"127.0.0.1"}))
# ruff: noqa: E501  one alert a line
KSM = {"job": "kube-state-metrics", "instance": "10.42.0.7:8080"}
KUBELET = {"job": "kubelet", "instance": "10.0.0.9:10250"}
PUSHED = {"job": "pushgateway", "instance": "pushgw:9091"}


def alerts_of(name: str, labels: dict[str, str]) -> list[Alert]:
    """What an Alertmanager makes of one alert with these labels."""
    sent: dict[str, Any] = {
        "status": "firing",
        "labels": {"alertname": name, "severity": "critical", **labels},
        "annotations": {"summary": "Something is wrong."},
        "startsAt": "2026-01-02T03:04:05Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": "f1",
    }
    return list(
        parse_push({"version": "4", "groupKey": "{}", "status": "firing", "receiver": "x", "alerts": [sent]}).alerts
    )


@pytest.mark.parametrize(
    ("name", "labels", "place", "host"),
    [
        # kube-state-metrics: with and without honor_labels, under the names that its charts give it.
        ("KubePodCrashLooping", {**KSM, "pod": "checkout-6d5f9", "namespace": "shop"}, "checkout-6d5f9", ""),
        ("KubePodNotReady", {**KSM, "pod": "web-0", "node": "worker-3", "service": "kps-kube-state-metrics"}, "web-0",
         "worker-3"),
        ("KubePodNotReady", {**KSM, "pod": "kube-state-metrics-7c9", "exported_pod": "web-0"}, "web-0", ""),
        ("KubeDeploymentReplicasMismatch", {**KSM, "deployment": "cart", "container": "kube-state-metrics"}, "cart", ""),
        ("KubeStatefulSetReplicasMismatch", {**KSM, "statefulset": "kafka"}, "kafka", ""),
        ("KubeDaemonSetRolloutStuck", {**KSM, "job": "integrations/kubernetes/kube-state-metrics",
                                       "daemonset": "fluentd"}, "fluentd", ""),
        ("KubeJobFailed", {**KSM, "job_name": "import-28"}, "import-28", ""),
        ("KubeCronJobTooLong", {"job": "monitoring/ksm", "instance": "10.42.0.7:8080", "cronjob": "import"}, "import", ""),
        ("KubeHpaMaxedOut", {**KSM, "horizontalpodautoscaler": "web"}, "web", ""),
        ("KubeNodeNotReady", {**KSM, "node": "worker-3"}, "worker-3", "worker-3"),
        ("KubeQuotaExceeded", {**KSM, "namespace": "shop", "resourcequota": "compute"}, "compute", ""),
        ("KubePersistentVolumeErrors", {**KSM, "persistentvolume": "pv-7"}, "pv-7", ""),
        # A pod that is an exporter itself, of which another one speaks.
        ("KubePodCrashLooping", {**KSM, "pod": "pushgateway-0", "service": "kube-state-metrics"}, "pushgateway-0", ""),
        ("KubeDeploymentGenerationMismatch", {**KSM, "deployment": "blackbox-exporter"}, "blackbox-exporter", ""),
        # The kubelet and cAdvisor.
        ("KubePersistentVolumeFillingUp", {**KUBELET, "node": "worker-3", "persistentvolumeclaim": "data-pg-0"},
         "data-pg-0", "worker-3"),
        ("CPUThrottlingHigh", {**KUBELET, "pod": "web-0", "container": "app", "service": "kps-kubelet"}, "web-0", ""),
        ("KubeletTooManyPods", {**KUBELET, "node": "worker-3"}, "worker-3", "worker-3"),
        ("ContainerMemory", {"job": "cadvisor", "instance": "cadvisor:8080", "name": "shop_web_1"}, "shop_web_1", ""),
        # The Pushgateway, and what else is scraped from one address for many.
        ("BackupJobFailed", {**PUSHED, "exported_job": "nightly-backup"}, "nightly-backup", ""),
        ("BackupJobFailed", {**PUSHED, "exported_job": "nightly-backup", "exported_instance": "db-7"}, "db-7", "db-7"),
        ("BatchLate", {"job": "batch", "instance": "pushgateway.example.com:9091", "exported_job": "etl"}, "etl", ""),
        ("HighLoad", {"job": "federate", "instance": "prom-dc1:9090", "exported_instance": "db-1:9100"}, "db-1:9100",
         "db-1"),
        ("IngressErrors", {"job": "ingress-nginx", "instance": "10.42.0.9:10254", "exported_service": "cart"}, "cart", ""),
        ("RdsCpuHigh", {"job": "cloudwatch", "instance": "yace:5000", "dimension": "x",
                        "dbinstance_identifier": "orders-1"}, "orders-1", ""),
        ("VmDown", {"job": "vmware", "instance": "vmware-exporter:9272", "vm_name": "erp-2"}, "erp-2", ""),
        # Probes.
        ("ProbeFailed", {"job": "blackbox", "instance": "blackbox:9115", "target": "https://shop.example.com"},
         "https://shop.example.com", "shop.example.com"),
        ("ProbeFailed", {"job": "blackbox", "instance": "10.0.0.2:9115", "service": "shop"}, "shop", ""),
        ("InterfaceDown", {"job": "snmp", "instance": "snmp-exporter:9116", "sysName": "switch-4", "ifName": "Gi0/1"},
         "switch-4", ""),
        ("InterfaceDown", {"job": "snmp", "instance": "10.0.0.2:9116", "host": "switch-4"}, "switch-4", "switch-4"),
        ("IpmiFanFailed", {"job": "ipmi", "instance": "ipmi-exporter:9290", "node": "db-4"}, "db-4", "db-4"),
    ],
)  # fmt: skip
def test_an_alert_of_a_go_between_is_about_what_it_names(
    name: str, labels: dict[str, str], place: str, host: str
) -> None:
    (alert,) = alerts = alerts_of(name, labels)
    exporter = labels["instance"]
    assert (alert.place, exporter in alert.host) == (place, False)
    target = target_of(alerts, OWN)
    assert target is not None
    assert (target.host, target.is_own) == (host, False)
    assert exporter not in target.labels.values()
    page = render_message(a_subject(alerts=alerts, incident=None))
    assert exporter.partition(":")[0] not in page.title
    assert next(fact.value for fact in page.facts if fact.label == "Where") == place


@pytest.mark.parametrize(
    ("labels", "place"),
    [
        ({"job": "node", "instance": "db-1:9100", "device": "eth0", "mountpoint": "/"}, "db-1:9100"),
        ({"job": "node", "instance": "db-1:9100", "node": "k8s-2", "pod": "node-exporter-x"}, "db-1:9100"),
        ({"job": "blackbox-tcp", "instance": "db-1:5432", "service": "orders"}, "db-1:5432"),
        ({"job": "snmp", "instance": "switch-4", "ifName": "Gi0/1"}, "switch-4"),
        ({"job": "postgres", "instance": "pg-replica-2:9187", "server": "pg-1"}, "pg-replica-2:9187"),
        ({"job": "batch-app", "instance": "app-1:8080", "exported_job": "invoices"}, "app-1:8080"),
        ({"job": "kubelet", "instance": "10.0.0.9:10250", "namespace": "kube-system"}, "10.0.0.9:10250"),
        # The exporter itself is in trouble.
        ({"job": "pushgateway", "instance": "pushgw:9091"}, "pushgw:9091"),
        ({"alertname": "TargetDown", **KSM, "namespace": "monitoring", "service": "kube-state-metrics"}, "10.42.0.7:8080"),
        ({"alertname": "InstanceDown", "job": "blackbox", "instance": "blackbox:9115", "namespace": "monitoring"},
         "blackbox:9115"),
    ],
)  # fmt: skip
def test_an_exporter_of_its_own_host_is_where_the_alert_happens(labels: dict[str, str], place: str) -> None:
    assert not is_of_go_between(labels)
    assert place_of(labels) == place
