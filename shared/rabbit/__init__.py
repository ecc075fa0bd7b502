"""RabbitMQ: the only place that knows aio_pika."""
