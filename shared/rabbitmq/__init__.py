"""The adapter to RabbitMQ, and the only package that imports pika.

link       what heals: where to connect next, how long to wait, what was published and is not settled
session    one connection, from the attempt to its end
"""

from shared.rabbitmq.link import RabbitLink, io_thread

__all__ = ["RabbitLink", "io_thread"]
