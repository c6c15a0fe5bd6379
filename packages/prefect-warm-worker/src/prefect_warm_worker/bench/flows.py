"""The flow that the benchmark runs, and the program that serves it as `serve()` does."""

from __future__ import annotations

import socket
import sys
import time

from prefect import flow, serve


@flow
async def first_line(port: int, number: int) -> None:
    """Tell the benchmark when the first line of a flow is executed; it does nothing else."""
    began = time.time()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(f"{number} {began}".encode(), ("127.0.0.1", port))


if __name__ == "__main__":
    serve(first_line.to_deployment(name=sys.argv[1]), limit=int(sys.argv[2]))  # pyright: ignore[reportArgumentType]
