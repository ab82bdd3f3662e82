"""When a change of records is in force, told look by look in virtual time."""

from dataclasses import replace
from typing import Any

from recell.providers.routing.dns.publication import Outcome, Publication, Reply, Wanted, ask, look
from recell.providers.routing.version import Version

NAME = "shop.example.com"


def wanted(
    *targets: str, content: str = "", generation: int = 1, epoch: int = 1, uid: str = "p", **more: Any
) -> Wanted:
    base = Wanted(
        version=Version(uid, epoch, generation),
        content=content or ",".join(targets),
        name=NAME,
        record_type="A",
        targets=frozenset(targets),
        exact=True,
        ttl=60.0,
        propagation=0.0,
        within=300.0,
    )
    return replace(base, **more)


def answers(*targets: str, server: str = "ns1", ttl: float = 60.0) -> Reply:
    return Reply(server, Outcome.ANSWERED, frozenset(targets), ttl)


NXDOMAIN = Reply("ns1", Outcome.NO_RECORD, said="NXDOMAIN")
SERVFAIL = Reply("ns2", Outcome.FAILED, said="SERVFAIL")
SILENT = Reply("ns2", Outcome.SILENT, said="no answer within 2 s")


class Play:
    """Looks every two seconds."""

    def __init__(self, *targets: str, **more: Any) -> None:
        self.now = 1000.0
        self.taken = False
        self.state: Publication = ask(None, wanted(*targets, **more), self.now)

    def ask(self, *targets: str, **more: Any) -> None:
        self.state = ask(self.state, wanted(*targets, **more), self.now)

    def look(self, *replies: Reply, seconds: float = 0.0) -> Publication:
        """Once, and then every two seconds for so long."""
        end = self.now + seconds
        while True:
            self.state = look(self.state, replies, taken=self.taken, now=self.now)
            if self.now >= end:
                return self.state
            self.now += 2

    def until_in_force(self, *replies: Reply) -> float:
        began = self.now
        while not self.look(*replies).in_force:
            self.now += 2
            assert self.now - began < 1000, self.state.waits
        return self.now - began


def settled(*targets: str, **more: Any) -> Play:
    play = Play(*targets, **more)
    play.taken = True
    play.until_in_force(*([answers(*targets)] if targets else [NXDOMAIN]))
    return play


def test_every_name_server_answers_so_for_a_ttl_before_a_change_is_in_force() -> None:
    play = settled("1.1.1.1", "1.1.1.2")
    play.ask("1.1.1.2", generation=2)
    assert not play.look(answers("1.1.1.1", "1.1.1.2"), answers("1.1.1.1", "1.1.1.2", server="ns2")).in_force
    assert "ns1 still answers 1.1.1.1 for A shop.example.com" in play.state.waits
    play.now += 2
    play.look(answers("1.1.1.2"), answers("1.1.1.1", "1.1.1.2", server="ns2"), seconds=100)
    assert not play.state.in_force
    assert play.state.waits == "ns2 still answers 1.1.1.1 for A shop.example.com, which no serving cell has"
    play.now += 2
    assert play.until_in_force(answers("1.1.1.2"), answers("1.1.1.2", server="ns2")) == 60
    assert play.state.waits == ""


def test_an_added_address_has_to_be_answered_too() -> None:
    play = settled("1.1.1.1")
    play.ask("1.1.1.1", "1.1.1.2", generation=2)
    play.look(answers("1.1.1.1"), seconds=100)
    assert play.state.waits == "ns1 does not answer 1.1.1.2 for A shop.example.com yet"
    play.now += 2
    assert play.until_in_force(answers("1.1.1.1", "1.1.1.2")) == 60


def test_the_greater_of_the_old_and_the_new_ttl_is_waited_out_and_what_is_really_answered_counts() -> None:
    play = settled("1.1.1.1", "1.1.1.2", ttl=120.0)
    play.ask("1.1.1.2", ttl=10.0)
    assert play.until_in_force(answers("1.1.1.2", ttl=10)) == 120
    play.ask("1.1.1.1", ttl=10.0)
    play.look(answers("1.1.1.2", ttl=40))  # the zone's provider made 40 of it
    play.now += 2
    assert play.until_in_force(answers("1.1.1.1", ttl=40)) == 40


def test_a_second_change_during_the_first_still_waits_for_what_was_before_both() -> None:
    play = settled("1.1.1.1", "1.1.1.2", ttl=120.0)
    play.ask("1.1.1.2", ttl=10.0)
    play.look(answers("1.1.1.2"), seconds=20)
    play.ask("1.1.1.1", "1.1.1.2", ttl=10.0)
    play.now += 2
    assert play.until_in_force(answers("1.1.1.1", "1.1.1.2")) == 120


def test_a_wrong_answer_begins_the_wait_anew_also_after_its_end() -> None:
    play = settled("1.1.1.2")
    assert not play.look(answers("1.1.1.1", "1.1.1.2")).in_force
    play.now += 2
    play.look(answers("1.1.1.2"), seconds=40)
    assert not play.state.in_force
    play.look(answers("1.1.1.1"))
    play.now += 2
    assert play.until_in_force(answers("1.1.1.2")) == 60


def test_silence_and_servfail_prove_nothing_and_their_time_does_not_count() -> None:
    play = settled("1.1.1.1", "1.1.1.2")
    play.ask("1.1.1.2", generation=2)
    play.look(answers("1.1.1.2"), answers("1.1.1.2", server="ns2"), seconds=40)
    for unheard, said in ((SILENT, "no answer within 2 s"), (SERVFAIL, "SERVFAIL")):
        play.now += 2
        play.look(answers("1.1.1.2"), unheard, seconds=100)
        assert play.state.waits == f"ns2 does not tell A shop.example.com: {said}"
    play.now += 2
    assert play.until_in_force(answers("1.1.1.2"), answers("1.1.1.2", server="ns2")) == 20


def test_silence_does_not_end_what_is_in_force_but_is_complained_about_in_the_end() -> None:
    play = settled("1.1.1.1")
    play.now += 2
    play.look(answers("1.1.1.1"), SILENT, seconds=200)
    assert play.state.in_force
    assert play.state.complaint(play.now) == ""
    play.look(answers("1.1.1.1"), SILENT, seconds=200)
    assert play.state.in_force
    assert "ns2 does not tell" in play.state.complaint(play.now)
    assert play.look(answers("1.1.1.1")).complaint(play.now) == ""


def test_no_such_name_is_an_answer_right_where_nothing_is_to_be_published_and_wrong_elsewhere() -> None:
    play = settled("1.1.1.1")
    play.ask()
    assert play.until_in_force(NXDOMAIN) == 60
    play.ask("1.1.1.1")
    play.look(NXDOMAIN)
    assert play.state.waits == "ns1 has no A shop.example.com (NXDOMAIN)"


def test_a_change_that_is_late_is_complained_about_with_server_and_record() -> None:
    play = settled("1.1.1.1", "1.1.1.2")
    play.ask("1.1.1.2", generation=2)
    play.look(answers("1.1.1.1", "1.1.1.2"), seconds=298)
    assert play.state.complaint(play.now) == ""
    play.look(answers("1.1.1.1", "1.1.1.2"), seconds=4)
    assert "ns1 still answers 1.1.1.1" in play.state.complaint(play.now)


def test_the_same_records_of_a_newer_placement_are_in_force_as_they_were() -> None:
    play = settled("1.1.1.1")
    play.ask("1.1.1.1", generation=9)
    assert play.state.in_force
    assert play.state.wanted.version.generation == 9


def test_a_weight_is_in_force_only_after_external_dns_took_it_up_and_its_time_has_passed() -> None:
    play = Play("1.1.1.1", "1.1.1.2", content="95:100", exact=False, propagation=60.0)
    play.look(answers("1.1.1.1"), answers("1.1.1.2"), seconds=200)
    assert "status.observedGeneration is behind" in play.state.waits
    play.taken = True
    play.look(answers("1.1.1.1"))
    assert "the name servers may take 1m" in play.state.waits
    assert play.until_in_force(answers("1.1.1.2")) == 120


def test_with_weights_an_answer_names_one_of_them_but_never_a_drained_cell() -> None:
    play = settled("1.1.1.1", "1.1.1.2", exact=False, propagation=10.0)
    play.ask("1.1.1.2", exact=False, propagation=10.0)
    play.look(answers("1.1.1.2"), answers("1.1.1.2"), answers("1.1.1.1"), seconds=100)
    assert "still answers 1.1.1.1" in play.state.waits
    play.now += 2
    assert play.until_in_force(answers("1.1.1.2")) == 60
