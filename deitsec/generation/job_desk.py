"""Who makes which shard, and what happens to the shards of a worker that was lost."""

from collections import Counter, deque
from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter

from deitsec.generation.plan import Job


class JobDesk:
    """Hands jobs out to workers, one when one is asked for.

    The jobs of one block of rows go to one worker, which reads the block once; when no new block is
    left, a worker takes jobs from what the others have not begun. Of the jobs a lost worker had in
    hand nobody knows which one killed it, so each is made alone the next time: the blame for a
    second loss is certain then.

    Args:
        jobs: taken block by block, when they are needed.
        attempts: workers that a shard may cost before it is given up.
    """

    def __init__(self, jobs: Iterable[Job], *, attempts: int) -> None:
        self._blocks = groupby(jobs, key=attrgetter("start"))
        self._attempts = attempts
        self._next_block: deque[Job] = deque()  # looked up already
        self._shares: dict[int, deque[Job]] = {}  # by worker: of its block, not handed out
        self._hands: dict[int, dict[int, Job]] = {}  # by worker, then by shard
        self._suspects: deque[Job] = deque()
        self._losses: Counter[int] = Counter()
        self._given_up: list[int] = []

    @property
    def given_up(self) -> tuple[int, ...]:
        """The shards that cost too many workers, ascending."""
        return tuple(sorted(self._given_up))

    @property
    def finished(self) -> bool:
        """Whether every job is done or given up."""
        if any(self._hands.values()) or self._suspects or any(self._shares.values()):
            return False
        return not self._look_ahead()

    def holds(self, worker: int) -> bool:
        """Whether a worker has a job in hand."""
        return bool(self._hands.get(worker))

    def take(self, worker: int) -> Job | None:
        """The next job for a worker; None where there is none for it as long as things stand."""
        hand = self._hands.setdefault(worker, {})
        if hand and (self._suspects or any(self._losses[shard] for shard in hand)):
            return None  # first what is in hand: a suspect is made alone
        job = self._suspects.popleft() if self._suspects else self._next(worker)
        if job is not None:
            hand[job.shard] = job
        return job

    def finish(self, worker: int, shard: int) -> None:
        """Note that a worker has made a shard."""
        del self._hands[worker][shard]
        self._losses.pop(shard, None)

    def lose(self, worker: int) -> tuple[Job, ...]:
        """Take back the jobs that a lost worker had in hand, and return them."""
        lost = tuple(self._hands.pop(worker, {}).values())
        for job in lost:
            self._losses[job.shard] += 1
            if self._losses[job.shard] < self._attempts:
                self._suspects.append(job)
            else:
                self._given_up.append(job.shard)
        return lost

    def _next(self, worker: int) -> Job | None:
        if not self._shares.get(worker) and self._look_ahead():
            self._shares[worker], self._next_block = self._next_block, deque()
        if self._shares.get(worker):
            return self._shares[worker].popleft()
        longest = max(self._shares.values(), key=len, default=None)
        return longest.pop() if longest else None

    def _look_ahead(self) -> bool:
        """Whether there is a block that nobody has begun."""
        if not self._next_block:
            _, jobs = next(self._blocks, (None, ()))
            self._next_block.extend(jobs)
        return bool(self._next_block)
