"""The control: a bare gRPC server that knows nothing but health. What an attack costs it, it costs every server."""

import asyncio
import signal

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse


async def main() -> None:
    server = grpc.aio.server()
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await healthy.set("", HealthCheckResponse.SERVING)
    await server.start()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    print(f"control ready on 127.0.0.1:{port} (health)", flush=True)
    await over.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
