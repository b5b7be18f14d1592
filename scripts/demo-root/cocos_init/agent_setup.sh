#!/bin/sh
# Stands for what an image build puts beside its agent: a script that may write here.
