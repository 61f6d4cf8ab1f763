"""The table of tags is in step with the names; the measure of the tags: 20 standard and 100 custom ones in one set."""

from pathlib import Path

import pytest
import yaml
from cloud_services import AwsService

from zerospan.enricher import keys, tagdoc
from zerospan.enricher.names import TAGS
from zerospan.enricher.source import Layer
from zerospan.enricher.sources.cloud.aws import Aws
from zerospan.enricher.sources.cloud.metadata import Metadata
from zerospan.enricher.sources.static import StaticConfig, problems
from zerospan.enricher.store import TagStore

DOCS = Path(__file__).parents[2] / "docs" / "tags.md"


def test_the_tables_of_the_documentation_are_in_step() -> None:
    text = DOCS.read_text()
    tables = text[text.index(tagdoc.BEGIN) + len(tagdoc.BEGIN) : text.index(tagdoc.END)]
    assert tables == tagdoc.markdown(), "run: python -m zerospan.enricher.tagdoc --write-docs docs/tags.md"


def test_every_tag_stands_there_once() -> None:
    rows = [line.split("`")[1] for line in tagdoc.markdown().splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(name + "*" if name.endswith(".") else name for name in TAGS)


def test_a_tag_without_a_section_is_an_error() -> None:
    with pytest.raises(ValueError, match="no section"):
        tagdoc.section("colour")


def test_the_example_of_the_documentation_is_right(tmp_path: Path) -> None:
    block = DOCS.read_text().split("```yaml\n")[1].partition("```")[0]
    (tmp_path / "f").write_text(block)
    assert list(problems(StaticConfig(file=str(tmp_path / "f")))) == []
    assert len(yaml.safe_load(block)["entries"]) == 5


def node_pod_container(store: TagStore) -> None:
    """As the sources make them: cloud below node below pod below containers."""
    cloud = store.make({
        "cloud.provider": "aws", "cloud.platform": "aws_eks", "cloud.region": "eu-central-1",
        "cloud.availability_zone": "eu-central-1b", "cloud.account.id": "123456789012", "host.id": "i-0f3a5c",
        "host.type": "m6i.large", "host.image.id": "ami-07b0", "zerospan.cloud.vpc.id": "vpc-0a1b",
        "zerospan.cloud.subnet.id": "subnet-0c2d", "zerospan.cloud.private_ip": "10.0.17.4",
    })  # fmt: skip
    node = store.make({"k8s.cluster.name": "prod-1", "k8s.node.name": "n1", "host.name": "n1"}, cloud)
    labels = {f"k8s.pod.label.label-{i}": f"value-{i}" for i in range(100)}
    pod = store.make(
        {"k8s.namespace.name": "shop", "k8s.pod.name": "cart-1", "k8s.deployment.name": "cart"} | labels, node
    )
    store.put(keys.address("10.244.1.7"), pod, layer=Layer.KUBERNETES, since_ns=1, node="n1")
    for i in range(3):
        own = {"service.name": f"cart-{i}", "k8s.container.name": f"c{i}", "container.image.tags": "1.4.2"}
        store.put(keys.container(f"{i:064x}"), store.make(own, pod), layer=Layer.KUBERNETES, since_ns=1, node="n1")


def test_20_standard_and_100_custom_tags_in_one_set() -> None:
    store = TagStore()
    node_pod_container(store)
    found = store.find(keys.container(f"{1:064x}"))
    assert found is not None
    tags = found.tags()
    families = tuple(name for name in TAGS if name.endswith("."))
    standard = [name for name in tags if name in TAGS]
    custom = [name for name in tags if name.startswith(families)]
    assert len(standard) >= 20 and len(custom) == 100 and len(standard) + len(custom) == len(tags)
    assert tags["k8s.pod.label.label-99"] == found.get("k8s.pod.label.label-99") == "value-99"


def test_100_custom_tags_stand_once_however_many_share_them() -> None:
    store = TagStore()
    node_pod_container(store)
    sets = {s.id: s for i in range(3) for s in store.find(keys.container(f"{i:064x}")).chain()}  # type: ignore[union-attr]
    own = sum(name.startswith("k8s.pod.label.") for s in sets.values() for name in s.own[::2])
    assert own == 100 and len(sets) == store.sets.made == 6  # cloud, node, pod, three containers


def test_a_lookup_makes_nothing_however_many_tags_there_are() -> None:
    """It hands out what is there: the same object each time, no set is made on the way."""
    store = TagStore()
    node_pod_container(store)
    wanted = [keys.address("10.244.1.7"), *(keys.container(f"{i:064x}") for i in range(3))]
    before = [store.find(key) for key in wanted]
    made = store.sets.made
    after = [store.find(key) for _ in range(100) for key in wanted]
    assert all(a is b for a, b in zip(after, before * 100, strict=True))
    assert store.sets.made == made == 6


def test_100_tags_of_a_machine_by_one_glob() -> None:
    aws = AwsService()
    names = [f"tag-{i}" for i in range(100)]
    at = "/latest/meta-data/tags/instance"
    aws.data[at] = "\n".join(names)
    aws.data |= {f"{at}/{name}": f"value of {name}" for name in names}
    http = Metadata(aws.address, timeout_s=5, total_s=60)
    http.begin()
    tags = Aws(http).read(("*",)).tags
    http.end()
    aws.close()
    assert {name: tags[f"zerospan.cloud.tag.{name}"] for name in names} == {name: f"value of {name}" for name in names}
