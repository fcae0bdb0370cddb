"""Datagrams between hosts: a host that falls silent is noticed on both sides of its link."""

import socket
import time
from collections import namedtuple

import pytest

from spnb.transport.host_beats import HostBeats, Star

NAMES = ("127.0.0.1", "two", "three")
DEADLINE = 0.4


class Cut:
    """A socket whose link is cut."""

    def recvfrom(self, _):
        time.sleep(DEADLINE / 4)
        raise TimeoutError

    def sendto(self, *_):
        raise OSError("network is unreachable")


Hosts = namedtuple("Hosts", "beats ended")


@pytest.fixture
def hosts():
    """Three hosts that are all this one, and what each was told at its end."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(("127.0.0.1", 0))
    port, beats, ended = listening.getsockname()[1], [], {}
    for number in range(3):
        own = Star(NAMES, number, port, bytes(16), None if number else listening)
        beats.append(HostBeats(own, DEADLINE, lambda late, n=number: ended.setdefault(n, late)))
    time.sleep(0.5)
    return Hosts(beats, ended)


def wait_for_ends(hosts, count):
    deadline = time.monotonic() + 5
    while len(hosts.ended) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return hosts.ended


@pytest.mark.long
def test_hosts_that_beat_go_on(hosts):
    time.sleep(3 * DEADLINE)
    assert hosts.ended == {}
    hosts.beats[1]._socket = hosts.beats[2]._socket = Cut()
    wait_for_ends(hosts, 3)


def test_both_sides_notice_a_cut_and_all_end(hosts):
    hosts.beats[2]._socket = Cut()
    assert wait_for_ends(hosts, 3) == {0: ["three"], 1: [], 2: ["127.0.0.1"]}


def test_the_loss_of_rank_0s_host_ends_all_others(hosts):
    hosts.beats[0]._socket = Cut()
    ended = wait_for_ends(hosts, 3)
    assert set(ended[0]) <= {"two", "three"}  # those that were late at that moment
    assert ended[1] == ended[2] == ["127.0.0.1"]


def test_datagrams_of_others_count_for_nothing(hosts):
    beats, last = hosts.beats[0], hosts.beats[2]
    last._socket = Cut()
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    start = time.monotonic()
    while not hosts.ended and time.monotonic() < start + 5:
        for content in (b"", b"x" * 21, bytes([1]) * 21, bytes(15) + bytes([1]) + bytes(5)):
            other.sendto(content, ("127.0.0.1", beats.star.port))
        time.sleep(0.01)
    assert wait_for_ends(hosts, 3)[0] == ["three"]
