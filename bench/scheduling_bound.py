"""What no policy can exceed: an upper bound of the value on time, also for one that knows all arrivals and durations.

The bound rests on prices, and a linear program only finds good ones. Let a second of a server cost p(t) >= 0. Take any
schedule, and let D be its jobs on time, each in one piece on one server. The value of D is what its jobs pay for their
seconds, plus what is left to them. What they pay is at most the price of all seconds of all servers, for no server
serves two at once. What is left to a job is at most its value less the cheapest place that it fits into between its
arrival and its deadline, and a job that would lose need not be served. So

    value on time  <=  num_servers * integral of p  +  sum over jobs of max(0, value - cheapest place)

whatever the prices are: neither the coarseness of the program below nor the solver's tolerance can make this wrong,
they only make it larger. It is the Lagrangian bound for the capacity (Fisher, Management Science 27, 1981).

The prices are the capacity's dual values in this relaxation: a job is done to any fraction, its work spread over
intervals between arrival and deadline (rounded outward), in each no more than its length, for that is what one server
can do; all work in an interval is at most num_servers times its length. Written down plainly that needs a variable for
each job and interval, millions for jobs that can wait an hour. So the intervals are the leaves of a binary tree: a job
puts its work into the at most 2 log n nodes that make up its window, a node hands all of its work down to its two
children, and only leaves are limited. Which job's work comes to which leaf does not matter, so nothing is lost but the
limit of a job's work in leaves that it reaches through a node above.

Turned down: the relaxation's own optimum as the bound. It is a little larger, for it lets a job pause, and as true only
as the solver's tolerances.
"""

import msgspec
import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from bench.scheduling_world import Floats, Ints, Jobs

NUM_INTERVALS = 1024
"""With four times as many, the bound of the full trace at load 1.8 is 0.005% lower, in nearly twice the time."""
ROUNDING = 1e-9
"""More than the sums below can lose as floating-point numbers, relative."""


class Work(msgspec.Struct, frozen=True):
    """The jobs that can be on time at all, as equal-length arrays."""

    arrival_s: Floats
    deadline_s: Floats
    service_s: Floats
    value: Floats


def offline_bound(jobs: Jobs, num_servers: int, num_intervals: int = NUM_INTERVALS) -> float:
    """At least the value on time of every schedule on so many servers.

    Args:
        num_intervals: a power of two; more make the bound tighter, and slower.
    Cost: one linear program; the full trace takes about 5 s on a core.
    """
    assert num_intervals & (num_intervals - 1) == 0 < num_intervals, "the intervals are the leaves of a full tree"
    able = jobs.arrival_s + jobs.service_s <= jobs.deadline_s
    if not able.any():
        return 0.0
    work = Work(jobs.arrival_s[able], jobs.deadline_s[able], jobs.service_s[able], jobs.value[able].astype(float))
    edges_s = np.linspace(0.0, work.deadline_s.max(), num_intervals + 1)
    prices = find_prices(work, num_servers, edges_s)
    paid = np.concatenate([[0.0], np.cumsum(prices * np.diff(edges_s))])
    left = np.maximum(work.value - cheapest(work, edges_s, paid), 0.0)
    return float((num_servers * paid[-1] + left.sum()) * (1 + ROUNDING))


def cheapest(work: Work, edges_s: Floats, paid: Floats) -> Floats:
    """float64[n], the least that each job can pay for its seconds in one piece between arrival and deadline.

    The price is constant in each interval, so the cost is piecewise linear in the start, and least where the job starts
    or ends at an edge, or at the earliest or the latest start.

    Args:
        paid: float64[intervals + 1], the price of a server's seconds from 0 to each edge.
    Cost: O(log n) for each job and edge in its window.
    """

    def cost(start_s: Floats, service_s: Floats) -> Floats:
        return np.interp(start_s + service_s, edges_s, paid) - np.interp(start_s, edges_s, paid)

    last_s = work.deadline_s - work.service_s
    least = np.minimum(cost(work.arrival_s, work.service_s), cost(last_s, work.service_s))
    for ahead_s in (np.zeros_like(last_s), work.service_s):  # it starts, it ends at the edge
        first = np.searchsorted(edges_s, work.arrival_s + ahead_s)
        counts = np.maximum(np.searchsorted(edges_s, last_s + ahead_s, side="right") - first, 0)
        job = np.repeat(np.arange(len(least)), counts)
        edge = np.arange(len(job)) - np.repeat(np.cumsum(counts) - counts - first, counts)
        np.minimum.at(least, job, cost(edges_s[edge] - ahead_s[job], work.service_s[job]))
    return least


def find_prices(work: Work, num_servers: int, edges_s: Floats) -> Floats:
    """float64[intervals], the price of a server's second in each: dual values of the relaxation.

    Nodes are numbered as in a heap: 1 is the root, node m has the children 2m and 2m + 1, and leaf i is num_leaves + i.
    Variables are each job's work in each node of its window, then what every node but the root gets from its parent.
    Rows are the nodes from 1 on (what comes in is at most what goes out, or the capacity), then the jobs (the work put
    somewhere is at most its seconds).
    """
    num_leaves, num_jobs = len(edges_s) - 1, len(work.value)
    num_nodes = 2 * num_leaves - 1
    job, node = windows(work, edges_s)
    child = np.arange(2, num_nodes + 1)
    put, handed = np.arange(len(job)), len(job) + np.arange(len(child))
    rows = np.concatenate([node - 1, num_nodes + job, child - 1, child // 2 - 1])
    columns = np.concatenate([put, put, handed, handed])
    signs = np.concatenate([np.ones(2 * len(job) + len(child)), -np.ones(len(child))])
    capacity = num_servers * np.diff(edges_s)
    length_s = edges_s[-1] / 2.0 ** np.floor(np.log2(node))
    density = work.value / work.service_s
    scale = density.mean()  # so that the solver's absolute tolerances fit
    most = np.concatenate([np.minimum(length_s, work.service_s[job]), np.full(len(child), np.inf)])
    solved = linprog(
        np.concatenate([-density[job] / scale, np.zeros(len(child))]),
        A_ub=csr_array((signs, (rows, columns)), shape=(num_nodes + num_jobs, len(most))),
        b_ub=np.concatenate([np.zeros(num_leaves - 1), capacity, work.service_s]),
        bounds=np.stack([np.zeros(len(most)), most], axis=1),
        method="highs",
    )
    assert solved.status == 0, f"a program that has the solution 0 and is bounded was not solved: {solved.message}"
    duals: Floats = -solved.ineqlin.marginals[num_leaves - 1 : num_nodes]
    return np.maximum(duals, 0.0) * scale


def windows(work: Work, edges_s: Floats) -> tuple[Ints, Ints]:
    """Pairs of a job and a node of the tree: the fewest nodes that make up the intervals of the job's window."""
    num_leaves = len(edges_s) - 1
    low = num_leaves + np.searchsorted(edges_s, work.arrival_s, side="right") - 1
    high = num_leaves + np.searchsorted(edges_s, work.deadline_s)
    jobs, nodes, number = [], [], np.arange(len(low))
    while (low < high).any():
        for chosen, node in ((low < high) & (low % 2 == 1), low), ((low < high) & (high % 2 == 1), high - 1):
            jobs.append(number[chosen])
            nodes.append(node[chosen])
        low, high = (low + 1) // 2, high // 2
    return np.concatenate(jobs), np.concatenate(nodes)
