"""The RabbitMQ on this host, as one of the cluster's brokers. What is here runs as root."""
