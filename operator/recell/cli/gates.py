"""Gates in plain words: what a person is asked at each, and what follows from a yes.

Promises: pure. A gate that is not known here is asked about by its name alone, so that an operator
which is newer than this program can still be answered. The numbers are in the run's own message.
"""

from typing import NamedTuple

from recell.api.recovery_run import Awaiting


class Question(NamedTuple):
    asks: str
    approving: str
    """What an approval means, for somebody who has to answer for it; empty where nobody knows."""


_QUESTIONS = {
    "start": Question("Start this run?", "The run begins, with the decision that is shown."),
    "accept-data-loss": Question(
        "Accept that customers lose what they did after the recovery point?",
        "They are served from the restored data; what came later is gone for good once they write again.",
    ),
    "partial-move": Question(
        "Serve the customers that arrived, and leave the others behind?",
        "Those that arrived are served by the new cell. The others keep their home in the old one, which is stopped:"
        " nobody serves them until they are moved by hand.",
    ),
    "unverified-move": Question(
        "Go on although nobody counted that every customer arrived?",
        "All of them are sent to the new cell; one that did not arrive finds no data there.",
    ),
    "promote": Question(
        "Serve the customers from the restored data?",
        "They are sent to the new cell, and what they write there counts from then on. This is not taken back.",
    ),
    "unfenced-source": Question(
        "Go on although the old cell may still write?",
        "Customers move while two cells may act for them. Stop the old one by hand first, if you can.",
    ),
    "data-not-readable": Question(
        "Restore from a backup although nobody knows whether the cell's own data can be read?",
        "A backup is older than the data: if the data can be read after all, its newest part is given up.",
    ),
    "unverified-integrity": Question(
        "Go on with restored data that nothing has checked?",
        "If it is corrupted as well, customers are served corrupted data.",
    ),
    "unknown-integrity": Question(
        "Restart the cell although nothing says that its data is intact?",
        "If the data is corrupted a restart does not help, and the cell serves it again.",
    ),
    "unknown-capacity": Question(
        "Drain the cell although nobody knows whether the others can bear its traffic?",
        "The others may become overloaded.",
    ),
    "unseen-workloads": Question(
        "Drain and restart the cell although its cluster cannot be reached?",
        "Its customers' traffic is taken away, and it is not restarted before its cluster can be reached again.",
    ),
    "unverified-drain": Question(
        "Go on although nothing shows that the traffic has left?",
        "Requests that are still under way in the cell may fail.",
    ),
    "unverified-health": Question(
        "Go on although nothing shows that the cell is well?", "Customers may come back to a cell that fails."
    ),
    "unverified-restore": Question(
        "Give the cell more traffic although nothing shows that it serves well?",
        "Customers may come back to a cell that fails.",
    ),
    "unverified-stability": Question(
        "End the run although nothing shows that the cell stayed well?", "Nobody watches it for this run any longer."
    ),
    "systemic": Question(
        "Recover the cells although most have failed, or something that all of them need does not answer?",
        "Cells are restarted, made and replaced. If the cause is shared that changes nothing and costs time.",
    ),
    "lift-shedding": Question(
        "Let all requests through although the cells do not seem to bear them?",
        "Shedding is lifted step by step without looking at capacity and health. The cells may become overloaded.",
    ),
    "unverified-fleet": Question(
        "End the run although nothing shows that all cells stayed well?", "Nobody watches them for this run any longer."
    ),
    "unverified-replacement": Question(
        "Take the new cell as good although nothing shows that it serves well?",
        "The old cell is retired, and customers stay in a cell that nobody has seen to work.",
    ),
}


def question(gate: str) -> Question:
    return _QUESTIONS.get(gate, Question(f"Open the gate {gate}?", ""))


def approve_command(namespace: str, run: str, awaiting: Awaiting) -> str:
    """The command that opens this gate and no other."""
    return f"recell approve {run} --gate {awaiting.gate} -n {namespace}"
