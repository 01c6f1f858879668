"""Several attacks in turn."""

from abc import abstractmethod
from dataclasses import dataclass

from deitsec.attacks.attack import Attack
from deitsec.types import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Cascade(Attack):
    """Attacks that run in turn, each on the rows that those before it left standing.

    A row that was wrong before is left as it is. With `stop=first_success` and compaction, both as
    they are by default, one that has fallen is not attacked again. Without compaction it goes
    through the later stages too, to the same result, that of the first attack which breaks it.
    With `stop=never` all stages run on all rows, and of a row's successes that of highest loss is
    kept.
    """

    @property
    @abstractmethod
    def stages(self) -> tuple[Attack, ...]:
        """The attacks, in order."""

    @property
    def spares(self) -> bool:
        """A row whose clean image reaches the goal already is left as it is."""
        return True

    def plan(self) -> Plan:
        """Return the programs of all stages, one after the other."""
        return [phase for stage in self.stages for phase in stage.plan()]
