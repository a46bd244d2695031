"""Members: the processes (or threads) that use a fabric, and who looks after those that died.

    +0 word   +1 when its process started   +2 last seen, ns

The word: state (3 bits), recoverer (8 bits), pid (22 bits), epoch (one more at every use).

    FREE --join--> JOINING --> ALIVE --begin_recovery--> RECOVERING --free--> FREE

A member is dead when its process is gone, which the system says for certain (pid and start time); a process that is
merely slow or stopped keeps what it has. Exactly one member recovers a dead one. If that one dies, too, whoever
recovers *him* takes over what he had begun, before his own number is free again: so a number is never used anew while
anybody still works on its former user.

A member's number is from 1 to 62: it is a bit in the words of sleepers, and 0 is nobody.
"""

from engine.atomics import Words, compare_and_swap, load_acquire, store_release
from engine.slots import NONE
from ledger.compiled import njit

STARTED, SEEN, MEMBER_WORDS = 1, 2, 8
NUM_MEMBERS = 62

FREE, JOINING, ALIVE, RECOVERING = 0, 1, 2, 3
STATE_MASK = (1 << 3) - 1
RECOVERER_SHIFT, RECOVERER_MASK = 3, (1 << 8) - 1
PID_SHIFT, PID_MASK = 11, (1 << 22) - 1
EPOCH_SHIFT = 33


@njit(nogil=True, inline="always")
def member_at(members: int, number: int) -> int:
    return members + number * MEMBER_WORDS


@njit(nogil=True, inline="always")
def word_of(epoch: int, pid: int, recoverer: int, state: int) -> int:
    return (epoch << EPOCH_SHIFT) | (pid << PID_SHIFT) | (recoverer << RECOVERER_SHIFT) | state


@njit(nogil=True, inline="always")
def state_of(word: int) -> int:
    return word & STATE_MASK


@njit(nogil=True, inline="always")
def pid_of(word: int) -> int:
    return (word >> PID_SHIFT) & PID_MASK


@njit(nogil=True, inline="always")
def recoverer_of(word: int) -> int:
    return (word >> RECOVERER_SHIFT) & RECOVERER_MASK


@njit(nogil=True, inline="always")
def epoch_of(word: int) -> int:
    return word >> EPOCH_SHIFT


@njit(nogil=True)
def join(words: Words, members: int, pid: int, started: int) -> int:
    """A number for a process; NONE if all are taken. It is ALIVE from its first instant, by its pid alone."""
    for number in range(1, NUM_MEMBERS + 1):
        at = member_at(members, number)
        word = load_acquire(words, at)
        if state_of(word) == FREE:
            epoch = (word >> EPOCH_SHIFT) + 1
            if compare_and_swap(words, at, word, word_of(epoch, pid, 0, JOINING)):
                store_release(words, at + STARTED, started)
                store_release(words, at, word_of(epoch, pid, 0, ALIVE))
                return number
    return NONE


@njit(nogil=True)
def begin_recovery(words: Words, members: int, dead: int, seen: int, recoverer: int) -> bool:
    """Take it upon oneself to recover a member whose word is still `seen`. False: somebody else has."""
    desired = word_of(epoch_of(seen), pid_of(seen), recoverer, RECOVERING)
    return compare_and_swap(words, member_at(members, dead), seen, desired)


@njit(nogil=True)
def next_recovered_by(words: Words, members: int, dead: int) -> int:
    """A member whom a dead one was recovering; NONE if there is none."""
    for number in range(1, NUM_MEMBERS + 1):
        word = load_acquire(words, member_at(members, number))
        if state_of(word) == RECOVERING and recoverer_of(word) == dead and number != dead:
            return number
    return NONE


@njit(nogil=True)
def free(words: Words, members: int, number: int) -> None:
    """Nothing is left of the member: its number may be used again."""
    word = load_acquire(words, member_at(members, number))
    store_release(words, member_at(members, number), word_of(epoch_of(word), 0, 0, FREE))
