"""How a lane's frames travel: RabbitMQ's relay, a direct connection, and the choice between them."""
