"""When and how ownership passes: convergence, the guard before Finish, the broker's verdict, the outage it costs."""
