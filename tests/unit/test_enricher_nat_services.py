"""Service addresses named by who is behind them: one name or none, others' word first, told apart by time, bounded."""

import pytest

from zerospan.enricher import keys
from zerospan.enricher.source import Layer
from zerospan.enricher.sources import nat_services
from zerospan.enricher.sources.nat_services import NatServices
from zerospan.enricher.store import TagStore

S = 1_000_000_000
T0 = 1_700_000_000 * S
VIP, CLIENT = "10.96.0.10", "10.1.0.9"


def end(address: str, port: int) -> bytes:
    return keys.packed(address) + port.to_bytes(2, "big")


class World:
    def __init__(self) -> None:
        self.now = T0
        self.store = TagStore(clock=lambda: self.now)
        self.nat = NatServices(self.store)

    def is_(self, address: str, name: str, **tags: str) -> None:
        made = self.store.make({"service.name": name, **{k.replace("_", "."): v for k, v in tags.items()}})
        self.store.put(keys.address(address), made, layer=Layer.OS, since_ns=1)

    def call(self, real: str, vip: str = VIP, port: int = 80, real_port: int = 8080, client_port: int = 4000) -> None:
        original = end(CLIENT, client_port) + end(vip, port) + bytes((keys.TCP,))
        reply = end(real, real_port) + end(CLIENT, client_port) + bytes((keys.TCP,))
        self.nat.saw(original, reply, self.now)

    def later(self, seconds: float) -> None:
        self.now += int(seconds * S)
        self.nat.look(self.now)

    def name(self, vip: str = VIP, port: int = 80, at_ns: int = 0) -> str | None:
        found = self.store.find_address(keys.packed(vip), port, keys.TCP, at_ns or self.now)
        return found.get("service.name") if found is not None else None


@pytest.fixture
def world() -> World:
    made = World()
    made.is_("10.1.0.1", "cart", service_namespace="shop", container_name="cart-1")
    made.is_("10.1.0.2", "cart", service_namespace="shop", container_name="cart-2")
    made.is_("10.1.0.3", "pay", service_namespace="shop")
    return made


def test_what_is_behind_names_it_from_the_first_connection_on(world: World) -> None:
    world.call("10.1.0.1")
    assert world.name() == "cart"
    assert world.name(at_ns=T0 - S) == "cart", "we hear a moment after the connection began"
    assert world.name(at_ns=T0 - 60 * S) is None
    assert world.name(port=81) is None, "another port is another service"
    found = world.store.find(keys.endpoint(VIP, 80))
    assert found is not None and found.tags() == {"service.name": "cart", "service.namespace": "shop"}, "not one copy's"
    world.call("10.1.0.2")
    assert world.name() == "cart"


def test_two_services_behind_one_address_have_no_name(world: World) -> None:
    world.call("10.1.0.1")
    world.later(10)
    world.call("10.1.0.3")
    assert world.name() is None
    assert world.name(at_ns=T0 + S) == "cart"
    world.later(30)
    assert world.name() is None, "the first may come again"
    world.call("10.1.0.3")
    world.later(40)
    world.call("10.1.0.3")
    world.later(1)
    assert world.name() == "pay", "the first has not been seen for a minute"
    assert world.name(at_ns=T0 + S) == "cart" and world.name(at_ns=T0 + 30 * S) is None


def test_one_that_is_not_known_is_not_taken_for_the_others(world: World) -> None:
    world.call("10.1.0.1")
    world.call("10.1.0.99")
    assert world.name() is None
    world.is_("10.1.0.99", "cart", service_namespace="other")
    world.later(5)
    assert world.name() == "cart"
    found = world.store.find(keys.endpoint(VIP, 80))
    assert found is not None and not found.get("service.namespace")


def test_a_name_that_changes_is_followed(world: World) -> None:
    world.call("10.1.0.1")
    world.is_("10.1.0.1", "cart-2")
    world.later(5)
    assert world.name() == "cart-2"


@pytest.mark.parametrize("key", [keys.address(VIP), keys.endpoint(VIP, 80)], ids=["address", "port"])
def test_who_names_the_address_is_believed(world: World, key: bytes) -> None:
    service = world.store.make({"k8s.service.name": "front"})
    world.store.put(key, service, layer=Layer.KUBERNETES, since_ns=1)
    world.call("10.1.0.1")
    assert world.store.pieces(keys.endpoint(VIP, 80)) == ([] if key[:1] == b"a" else world.store.pieces(key))
    assert not world.name()


def test_a_name_given_later_ends_ours(world: World) -> None:
    world.call("10.1.0.1")
    world.store.put(keys.address(VIP), world.store.make({"service.name": "front"}), layer=Layer.STATIC, since_ns=1)
    world.later(5)
    assert world.name() == "front"


def test_a_source_that_alone_is_translated_names_nothing(world: World) -> None:
    original = end(CLIENT, 4000) + end("10.1.0.1", 8080) + bytes((keys.TCP,))
    reply = end("10.1.0.1", 8080) + end("192.168.0.1", 4000) + bytes((keys.TCP,))
    world.nat.saw(original, reply, T0)
    assert len(world.nat) == 0


def test_memory_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nat_services, "MAX_SERVICES", 3)
    for port in range(5):
        world.call("10.1.0.1", port=port + 1)
    assert len(world.nat) == 3 and world.nat.refused == 2
    for i in range(100):
        world.call(f"10.2.0.{i}", port=1)
    assert len(world.nat._services[keys.endpoint(VIP, 1)].ends) == nat_services.MAX_ENDS
    world.later(3601)
    assert len(world.nat) == 0 and world.name(port=2) is None
