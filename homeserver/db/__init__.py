"""Databases: engines, threads, transactions and the one definition of every table.

``statements`` turns SQLAlchemy Core constructs into texts compiled once; ``tx`` runs them on a raw DBAPI
connection; ``engine`` opens connections; ``threads`` decides on which thread a unit of work runs; ``schema`` is
the catalogue of tables; ``migrate`` brings a database to that schema.
"""
