"""``vmport rules``: the rules that bind ports, one of them, and what they say of a VM now."""

from __future__ import annotations

from typing import Annotated

import typer

from shared.client.resolve import NotFound, find_vm
from shared.client.rules_tables import checked_tables, rule_tables, rules_table
from shared.client.sdk import TenantClient
from shared.client.session import Session
from shared.client.vm_commands import VmArgument
from shared.exit_codes import ExitCode
from shared.messages.rule_facts import RuleOutcome
from shared.messages.rules import RulesChecked

app = typer.Typer(help="Rules: the clauses of law that bind ports, and what they say.", no_args_is_help=True)


@app.command("list")
def list_rules(
    context: typer.Context,
    *,
    regime: Annotated[str | None, typer.Option(help="Only this one, such as eu-data-act.")] = None,
) -> None:
    """List the rules that the broker knows, and which of them it only records.

    JSON: an array of ShownRule.
    """
    session: Session = context.obj
    rules = session.run(lambda client: client.rules(regime=regime))
    if regime is not None and not rules:
        raise NotFound("regime", regime)
    session.answer(rules, rules_table(rules))


@app.command("explain")
def explain_rule(
    context: typer.Context,
    code: Annotated[str, typer.Argument(metavar="CODE", help="A rule, or the code of a refusal.")],
) -> None:
    """Explain a rule, or all rules that refuse with a code: clause, source, validity, limit.

    JSON: an array of ShownRule.
    """
    session: Session = context.obj
    rules = session.run(lambda client: client.rules(code=code))
    if not rules:
        raise NotFound("rule", code)
    session.answer(rules, *rule_tables(rules))


@app.command("check")
def check_rules(
    context: typer.Context,
    vm: VmArgument,
    *,
    to: Annotated[str | None, typer.Option(help="The provider that would take the VM.")] = None,
) -> None:
    """Say what the rules would say of a port of this VM now: its provider is asked, nothing moves.

    Exit code 3: a rule would refuse the port.

    JSON: a RulesChecked.
    """
    session: Session = context.obj

    async def ask(client: TenantClient) -> RulesChecked:
        found = find_vm(vm, await client.vms())
        return await client.check_rules(found.uuid, recipient=to)

    checked = session.run(ask)
    session.answer(checked, *checked_tables(checked))
    if any(rule.outcome is RuleOutcome.REFUSED for rule in checked.rules):
        raise typer.Exit(ExitCode.REFUSED)
