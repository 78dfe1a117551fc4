"""The manifests hold together: what no API server is needed to see."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

K8S = Path(__file__).parents[3] / "k8s"
KINDS = {
    *("Namespace", "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Service", "Deployment"),
    *("StatefulSet", "PersistentVolumeClaim", "NetworkPolicy", "Job"),
}
OPTIONAL_KINDS = KINDS | {"Kustomization", "PodMonitor", "PrometheusRule"}
GIVEN = {"kube-root-ca.crt"}  # Kubernetes puts it into every namespace
OPTIONAL_MAPS = {"prometheus-optional"}  # a folder in optional/ makes it
MADE_IN_THE_CLUSTER = {
    "epg-minio": {"accesskey", "secretkey"},  # the administrator's
    "epg-s3": {"accesskey", "secretkey"},
    "epg-grafana": {"user", "password"},
}


def load(path: Path) -> list[dict]:
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


def overlay(name: str) -> list[dict]:
    """What an overlay takes together, without its patches."""
    folder = K8S / "optional" / name
    (kustomization,) = load(folder / "kustomization.yaml")
    return [d for resource in kustomization["resources"] for d in load(folder / resource)]


OBJECTS = [d for path in sorted(K8S.glob("*.yaml")) for d in load(path)]
SEAWEEDFS = overlay("seaweedfs")


def named(kind: str, objects: list[dict] = OBJECTS) -> dict[str, dict]:
    return {d["metadata"]["name"]: d for d in objects if d["kind"] == kind}


def beside(workload: dict) -> list[dict]:
    """What is applied together with it."""
    return OBJECTS if workload in OBJECTS else SEAWEEDFS


SERVING = [
    *(d for d in OBJECTS if d["kind"] in ("Deployment", "StatefulSet")),
    *(d for d in SEAWEEDFS if d["kind"] == "StatefulSet" and d not in OBJECTS),
]
SET_UP = named("Job")["set-up"]
WORKLOADS = [*SERVING, SET_UP]


def first_container(workload: dict) -> str:
    return workload["spec"]["template"]["spec"]["containers"][0]["name"]


each_workload = pytest.mark.parametrize("workload", WORKLOADS, ids=first_container)
each_server = pytest.mark.parametrize("workload", SERVING, ids=first_container)


def pod_of(workload: dict) -> dict:
    return workload["spec"]["template"]["spec"]


def containers(workload: dict) -> list[dict]:
    return pod_of(workload).get("initContainers", []) + pod_of(workload)["containers"]


def test_flat_ordered_and_core_kinds_only():
    assert {d["kind"] for d in OBJECTS} <= KINDS
    assert OBJECTS[0]["kind"] == "Namespace"
    assert not list(K8S.glob("kustomization.y*ml"))
    assert not list(K8S.glob("*.json"))  # kubectl would apply it
    keys = [(d["kind"], d["metadata"]["name"]) for d in OBJECTS]
    assert len(keys) == len(set(keys))
    assert all(d["metadata"]["namespace"] == "epg" for d in OBJECTS[1:])
    for path in sorted((K8S / "optional").rglob("*.yaml")):
        assert {d["kind"] for d in load(path)} <= OPTIONAL_KINDS, path


def test_every_optional_folder_is_in_the_table():
    table = (K8S / "README.md").read_text()
    for folder in (K8S / "optional").iterdir():
        assert f"| `{folder.name}` |" in table


def test_generated_files_are_fresh():
    spec = importlib.util.spec_from_file_location("generate", K8S / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    stale = [n for n, text in generate.files().items() if (K8S / n).read_text() != text]
    assert stale == [], "run python k8s/generate.py"


def test_namespace_enforces_restricted():
    labels = OBJECTS[0]["metadata"]["labels"]
    for mode in ("enforce", "warn", "audit"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


@each_server
def test_selectors_match_labels(workload):
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
    service = named("Service", beside(workload))[workload["metadata"]["name"]]["spec"]
    assert service["selector"].items() <= labels.items()
    ports = {
        p["name"]: p["containerPort"] for c in containers(workload) for p in c.get("ports", [])
    }
    for port in service["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    for container in containers(workload):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if "httpGet" in container.get(probe, {}):
                assert container[probe]["httpGet"]["port"] in ports


@each_workload
def test_every_reference_exists(workload):
    objects = beside(workload)
    pod, maps = pod_of(workload), named("ConfigMap", objects)
    assert pod["serviceAccountName"] in named("ServiceAccount", objects)
    volumes = {v["name"]: v for v in pod["volumes"]}
    for volume in volumes.values():
        sources = [volume, *volume.get("projected", {}).get("sources", [])]
        for source in sources:
            assert set(source) <= {
                *("name", "configMap", "emptyDir", "projected", "persistentVolumeClaim"),
                *("serviceAccountToken", "downwardAPI"),
            }
            if "configMap" in source:
                name = source["configMap"]["name"]
                where = OPTIONAL_MAPS if source["configMap"].get("optional") else set(maps) | GIVEN
                assert name in where
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert claim in named("PersistentVolumeClaim", objects)
    for container in containers(workload):
        for mount in container.get("volumeMounts", []):
            volume = volumes[mount["name"]]
            if "subPath" in mount:
                assert mount["subPath"] in maps[volume["configMap"]["name"]]["data"]
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                wanted = variable["valueFrom"]["secretKeyRef"]
                assert wanted["key"] in MADE_IN_THE_CLUSTER[wanted["name"]]
        for word in container.get("command", []):
            if word.startswith("/scripts/"):
                assert Path(word).name in maps["scripts"]["data"]


def test_secrets_are_made_where_and_with_the_keys_that_are_used():
    made = {}
    for container in containers(SET_UP):
        env = {v["name"]: v["value"] for v in container["env"]}
        keys = {item.partition("=")[0] for item in env["SECRET_KEYS"].split()}
        made[env["SECRET_NAME"]] = keys
        assert re.search(r"password=\?\d\d|secretkey=\?\d\d", env["SECRET_KEYS"])
    assert made == MADE_IN_THE_CLUSTER
    rules = named("Role")["set-up-credentials"]["rules"]
    assert rules == [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": list(made),
            "verbs": ["get"],
        },
    ]
    assert not [d for d in OBJECTS if d["kind"] == "Secret"]
    for path in K8S.rglob("*.yaml"):
        assert not re.search(r"minio123|minioadmin|password: *\w", path.read_text()), path


def test_roles_are_small_and_bound():
    for role in named("Role").values():
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
    for binding in named("RoleBinding").values():
        assert binding["roleRef"]["name"] in named("Role")
        assert {s["name"] for s in binding["subjects"]} <= set(named("ServiceAccount"))
    assert all(a["automountServiceAccountToken"] is False for a in named("ServiceAccount").values())


@each_workload
def test_pods_are_restricted(workload):
    pod = pod_of(workload)
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    for container in containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@each_workload
def test_probes_requests_and_limits(workload):
    for container in containers(workload):
        for what in ("requests", "limits"):
            assert set(container["resources"][what]) == {"cpu", "memory"}
    for container in pod_of(workload)["containers"] if workload is not SET_UP else []:
        assert "readinessProbe" in container
        assert "livenessProbe" in container or "ports" not in container


def test_network_policies_deny_first_and_name_known_programs():
    policies = named("NetworkPolicy")
    assert policies["default-deny"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    programs = {w["metadata"]["name"] for w in WORKLOADS}
    for policy in policies.values():
        labels = policy["spec"]["podSelector"].get("matchLabels", {})
        assert labels.get("app.kubernetes.io/name", "minio") in programs
    needs_api = {
        w["metadata"]["name"]
        for w in WORKLOADS
        if w["spec"]["template"]["metadata"]["labels"].get("epg/needs-api")
    }
    with_token = {
        w["metadata"]["name"]
        for w in WORKLOADS
        if any(v["name"] == "token" for v in pod_of(w)["volumes"])
    }
    assert needs_api == with_token == {"set-up", "prometheus"}


def peers(rules: list[dict], key: str) -> list[dict]:
    return [peer for rule in rules for peer in rule[key]]


def test_nothing_reaches_any_host_but_the_api_servers_ports():
    for policy in [*OBJECTS, *load(K8S / "optional" / "kubeflow" / "network-policy.yaml")]:
        if policy["kind"] != "NetworkPolicy":
            continue
        for rule in policy["spec"].get("egress", []):
            if "to" not in rule:
                assert {p["port"] for p in rule["ports"]} == {443, 6443}, policy["metadata"]["name"]
            elif any(p["port"] == 53 for p in rule.get("ports", [])):
                (place,) = rule["to"]
                assert place["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}
                space = place["namespaceSelector"]["matchLabels"]
                assert space == {"kubernetes.io/metadata.name": "kube-system"}
    selected = named("NetworkPolicy")["api-server"]["spec"]["podSelector"]
    assert selected == {"matchLabels": {"epg/needs-api": "true"}}


@pytest.mark.parametrize("program", ["minio", "pushgateway"])
def test_store_and_pushgateway_are_open_to_prometheus_and_steps_alone(program):
    spec = named("NetworkPolicy")[program]["spec"]
    steps = {"matchExpressions": [{"key": "epg/stage", "operator": "Exists"}]}
    prometheus = {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}
    found = peers(spec["ingress"], "from")
    assert found[0] == {"podSelector": prometheus}
    assert [peer["podSelector"] for peer in found[1:]] == [steps, steps]


def test_steps_of_kubeflow_are_shut_in():
    (policy,) = load(K8S / "optional" / "kubeflow" / "network-policy.yaml")
    spec = policy["spec"]
    assert policy["metadata"]["namespace"] == "kubeflow"
    assert spec["podSelector"] == {"matchExpressions": [{"key": "epg/stage", "operator": "Exists"}]}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    (scraper,) = peers(spec["ingress"], "from")
    assert scraper["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}


def test_steps_never_get_the_administrators_keys():
    """Of the store's own pod nobody but the server and its side container."""
    from pipelines import policy

    assert set(policy.CREDENTIALS) == MADE_IN_THE_CLUSTER["epg-s3"]
    users = {
        container["name"]
        for workload in WORKLOADS
        for container in containers(workload)
        for variable in container.get("env", [])
        if variable.get("valueFrom", {}).get("secretKeyRef", {}).get("name") == "epg-minio"
    }
    assert users == {"minio", "bucket"}
    minio = pod_of(named("StatefulSet")["minio"])
    bucket = next(c for c in minio["containers"] if c["name"] == "bucket")
    assert {"S3_USER_ACCESS_KEY", "S3_USER_SECRET_KEY"} <= {v["name"] for v in bucket["env"]}


def test_images_are_pinned_and_all_in_the_mirror():
    images = {c["image"] for w in WORKLOADS for c in containers(w)}
    for image in images:
        assert re.fullmatch(r"[a-z.]+/[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", image), image
    (mirror,) = load(K8S / "optional" / "mirror" / "kustomization.yaml")
    names = [i.partition(":")[0] for i in images]
    assert {i["name"] for i in mirror["images"]} == set(names) - {"docker.io/chrislusf/seaweedfs"}
    assert len(names) == len(set(names)), "one version of each"
    listed = [Path(r).name for r in mirror["resources"]]
    assert listed == [p.name for p in sorted(K8S.glob("*.yaml"))]
    for name in ("external-s3", "seaweedfs"):
        (other,) = load(K8S / "optional" / name / "kustomization.yaml")
        assert set(listed) - {Path(r).name for r in other["resources"]} == {"20-minio.yaml"}


def scraped(objects: list[dict]) -> set[tuple[str, int]]:
    """Service and port of each target that the configuration of Prometheus names."""
    maps = named("ConfigMap", objects)
    jobs = yaml.safe_load(maps["prometheus-config"]["data"]["prometheus.yml"])["scrape_configs"]
    groups = [group for job in jobs for group in job.get("static_configs", [])]
    groups += yaml.safe_load(maps["prometheus-store"]["data"]["store.yaml"])
    pairs = [target.split(":") for group in groups for target in group["targets"]]
    return {(host, int(port)) for host, port in pairs}


def served(objects: list[dict]) -> set[tuple[str, int]]:
    services = named("Service", objects).items()
    return {(name, port["port"]) for name, s in services for port in s["spec"]["ports"]}


def test_prometheus_scrapes_what_is_served():
    assert scraped(OBJECTS) == {("pushgateway", 9091), ("minio", 9000)}
    assert scraped(OBJECTS) <= served(OBJECTS)


def test_seaweedfs_takes_the_place_of_minio():
    """The same name, labels and S3 port: never two stores behind one Service."""
    ours, theirs = named("StatefulSet")["minio"], named("StatefulSet", SEAWEEDFS)["minio"]
    for part in ("selector", "serviceName", "replicas"):
        assert ours["spec"][part] == theirs["spec"][part]
    assert ours["spec"]["template"]["metadata"] == theirs["spec"]["template"]["metadata"]
    sides = [{**pod_of(one)["containers"][1], "env": []} for one in (ours, theirs)]
    assert sides[0] == sides[1]
    assert ("minio", 9000) in served(SEAWEEDFS)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize("name", ["mirror", "external-s3", "seaweedfs"])
def test_overlays_build(name):
    built = subprocess.run(
        ["kubectl", "kustomize", "--load-restrictor", "LoadRestrictionsNone", "."],
        cwd=K8S / "optional" / name,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    documents = [d for d in yaml.safe_load_all(built.stdout) if d]
    assert {d["kind"] for d in documents} <= KINDS
    if name == "seaweedfs":
        assert scraped(documents) == {("pushgateway", 9091), ("minio", 9327)}
        assert scraped(documents) <= served(documents)
    if name == "mirror":
        assert len(documents) == len(OBJECTS)
        assert not re.search(r"image: docker\.io", built.stdout)


def test_steps_find_addresses_and_secret_by_the_names_of_the_pipeline():
    from pipelines import policy

    pushgateway = named("Service")["pushgateway"]
    for folder in ("kubeflow", "external-s3"):
        (settings,) = load(K8S / "optional" / folder / "site.yaml")
        assert settings["metadata"]["name"] == policy.SITE_CONFIG_MAP
        assert set(settings["data"]) == set(policy.SITE_SETTINGS)
        address = "http://pushgateway.epg.svc:{port}".format(**pushgateway["spec"]["ports"][0])
        assert settings["data"]["pushgateway"] == address
    assert MADE_IN_THE_CLUSTER["epg-s3"] == set(policy.CREDENTIALS)


def test_dcgm_brings_its_own_scrape_configuration():
    settings, *_ = load(K8S / "optional" / "dcgm" / "dcgm.yaml")
    assert settings["metadata"]["name"] in OPTIONAL_MAPS
    (job,) = yaml.safe_load(settings["data"]["dcgm.yaml"])["scrape_configs"]
    assert job["job_name"] == "dcgm"
    config = yaml.safe_load(named("ConfigMap")["prometheus-config"]["data"]["prometheus.yml"])
    (folder,) = config["scrape_config_files"]
    prometheus = next(w for w in WORKLOADS if w["metadata"]["name"] == "prometheus")
    mounts = {m["name"]: m["mountPath"] for m in containers(prometheus)[0]["volumeMounts"]}
    assert folder == f"{mounts['optional']}/*.yaml"


@each_workload
def test_what_the_server_would_fill_into_atomic_lists_is_written(workload):
    """Otherwise every apply is a change: seen on Kubernetes 1.34 with a projected volume."""
    for volume in pod_of(workload)["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            for item in source.get("downwardAPI", {}).get("items", []):
                assert item["fieldRef"]["apiVersion"] == "v1"
