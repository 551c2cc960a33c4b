"""What must be true of a simulated worker after every step."""

from __future__ import annotations

from tests.support.simulation import Simulation

__all__ = ["check_credit", "check_memory", "check_progress", "check_rules"]


def check_rules(simulation: Simulation) -> None:
    """Fail if a rule was broken at a source."""
    for source in simulation.sources.values():
        if source.broken_rule is not None:
            raise source.broken_rule


def check_credit(simulation: Simulation) -> None:
    """Fail if more was claimed than can start, and read ahead."""
    assert len(simulation.jobs) <= simulation.most_in_flight, simulation.jobs
    for loop in simulation.stepper.loops:
        assert sum(run.loop is loop for run in simulation.active) <= simulation.concurrency


def check_memory(simulation: Simulation) -> None:
    """Fail if anything that was claimed is forgotten, or what is over is not."""
    if simulation.report is not None:
        return
    for name, intake in simulation.bench.intakes.items():
        held = {claim.delivery for queue, claim in simulation.held_claims if queue == name}
        jobs = {job.delivery for job in intake.running_jobs()}
        ended = {settlement.delivery for settlement in intake.unsettled}
        assert held == (jobs | ended) & held, f"{name}: forgotten: {held - jobs - ended}"
        assert intake.held <= len(held), f"{name}: held though it is over: {jobs - held}"
        over = [run for run in simulation.runs if run.end is not None and simulation.claim_of(run).delivery in jobs]
        assert not over, f"{name}: ended, and taken for running: {over}"
        if simulation.is_calm(name):
            assert not ended, f"{name}: not settled: {ended}"


def check_progress(simulation: Simulation) -> None:
    """Fail if something could run and doesn't, or if something runs beside a suspect."""
    if simulation.is_draining or simulation.blocked or not all(map(simulation.is_calm, simulation.sources)):
        return
    active, started = simulation.active, {simulation.claim_of(run).delivery for run in simulation.runs}
    # Those that run on though their message was given up; the next run of it waits for them.
    held = {claim.delivery for _, claim in simulation.held_claims if not claim.asked}
    working = [run for run in active if simulation.claim_of(run).delivery in held]
    lingering = {run.delivery.message_id for run in active if run not in working}
    unstarted = [job.delivery for job in simulation.jobs if job.delivery not in started]
    waiting = [delivery for delivery in unstarted if delivery.message_id not in lingering]
    if any(simulation.is_suspect(run.delivery) for run in working):
        assert 1 == len(working), f"a suspect doesn't run alone: {active}"
        assert len(simulation.held_claims) <= 1, (
            f"something is held beside a suspect that runs: {simulation.held_claims}"
        )
    elif any(map(simulation.is_suspect, unstarted)):
        assert active, f"nothing runs, and a suspect waits: {unstarted}"
    elif len(active) < simulation.capacity:
        ready = sum(simulation.bench.broker.queue(name).stats().ready for name in simulation.sources)
        assert (0, []) == (ready, waiting), f"there is room for more: {active}"
    if not active and not unstarted:
        assert 0 == simulation.bench.dispatcher.in_flight, "something that is over takes up room"
