"""nftables by libnftables' JSON: one batch is made whole or not at all. The one place that runs `nft`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared.errors import VmportError

TIMEOUT_S = 10.0
NFT = "nft"


class NftError(VmportError):
    """nftables refused a batch; nothing of it was done."""

    code = "firewall_change_refused"


class Nft:
    """Runs the program `nft` with JSON on its standard input and output."""

    def __init__(self, program: str = NFT, *, timeout_s: float = TIMEOUT_S) -> None:
        self._program = program
        self._timeout_s = timeout_s

    async def apply(self, commands: Sequence[Mapping[str, Any]]) -> None:
        """Do all commands, such as ``{"add": {"table": {...}}}``, in one transaction. Raises `NftError`."""
        await self._run("-j", "-f", "-", stdin=json.dumps({"nftables": list(commands)}))

    async def replace_table(self, family: str, name: str, objects: Sequence[Mapping[str, Any]]) -> None:
        """Have a table with exactly these objects, made in one transaction. Raises `NftError`."""
        await self.replace_tables([(family, name, objects)])

    async def replace_tables(self, tables: Iterable[tuple[str, str, Sequence[Mapping[str, Any]]]]) -> None:
        """The same for several: all in one transaction, which is one start of the program."""
        commands: list[Mapping[str, Any]] = []
        for family, name, objects in tables:
            table = {"table": {"family": family, "name": name}}
            # Adding before deleting: deleting what is not there would fail the batch.
            commands += [{"add": table}, {"delete": table}, {"add": table}, *({"add": each} for each in objects)]
        await self.apply(commands)

    async def delete_table(self, family: str, name: str) -> None:
        """Remove a table with all that is in it, if it is there. Raises `NftError`."""
        await self.delete_tables([(family, name)])

    async def delete_tables(self, tables: Iterable[tuple[str, str]]) -> None:
        """The same for several, all or none."""
        commands: list[Mapping[str, Any]] = []
        for family, name in tables:
            table = {"table": {"family": family, "name": name}}
            commands += [{"add": table}, {"delete": table}]
        await self.apply(commands)

    async def tables(self) -> tuple[tuple[str, str], ...]:
        """Family and name of each table of this network namespace. Raises `NftError`."""
        listed = json.loads(await self._run("-j", "list", "tables"))
        found = (each.get("table") for each in listed.get("nftables", ()))
        return tuple((str(table["family"]), str(table["name"])) for table in found if table is not None)

    async def counted(self, family: str, table: str, counter: str) -> int:
        """How many packets a named counter has counted; none where it is not there. Raises `NftError`."""
        if (family, table) not in await self.tables():
            return 0
        listed = json.loads(await self._run("-j", "list", "counter", family, table, counter))
        found = (each.get("counter") for each in listed.get("nftables", ()))
        return sum(int(each["packets"]) for each in found if each is not None)

    async def _run(self, *arguments: str, stdin: str = "") -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                self._program,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise NftError(f"{self._program} cannot be run: {error.strerror}; install nftables") from error
        try:
            async with asyncio.timeout(self._timeout_s):
                output, errors = await process.communicate(stdin.encode())
        except BaseException as error:
            if process.returncode is None:
                process.kill()
                await process.wait()
            if isinstance(error, TimeoutError):
                raise NftError(f"nftables has not answered for {self._timeout_s:.0f} s") from error
            raise
        if process.returncode:
            raise NftError(errors.decode(errors="replace").strip()[:1000] or f"exit code {process.returncode}")
        return output.decode()
