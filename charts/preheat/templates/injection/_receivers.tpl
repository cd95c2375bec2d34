{{- /*
Who receives the checkpoint, and what another pass has added to the pod already.
*/ -}}
{{- define "preheat.injection.receivers" }}
  - name: annotations
    expression: object.metadata.?annotations.orValue({})
  - name: shim
    expression: variables.annotations[?'preheat.dev/shim'].orValue('auto')
  - name: init
    expression: object.spec.?initContainers.orValue([])
  - name: apps
    expression: object.spec.containers
  - name: names
    expression: variables.apps.map(c, c.name)

  # Who receives the checkpoint: the containers annotated, else those with a GPU, else all.
  - name: annotated
    expression: >-
      'preheat.dev/containers' in variables.annotations
      ? variables.annotations['preheat.dev/containers'].split(',').map(name, name.trim()) : []
  - name: accelerated
    expression: >-
      variables.apps.filter(c, ['requests', 'limits'].exists(kind, c.?resources[?kind].orValue({}).exists(name, amount,
        name.lowerAscii().contains('gpu') && quantity(amount).isGreaterThan(quantity('0'))))).map(c, c.name)
  - name: receivers
    expression: >-
      'preheat.dev/containers' in variables.annotations ? variables.annotated
      : variables.accelerated.size() > 0 ? variables.accelerated : variables.names
  - name: receiving
    expression: variables.apps.transformList(i, c, c.name in variables.receivers, i)
  - name: chosen
    expression: variables.receiving.map(i, variables.apps[i])

  # The loader that another pass has added; of the recipe's description, the version and the generation may differ.
  - name: loaders
    expression: (variables.init + variables.apps).filter(c, c.name == 'preheat-loader')
  - name: described
    expression: >-
      variables.loaders.map(c, c.?env.orValue([]).filter(e, e.name == 'PREHEAT_PIPELINE').map(e, e.?value.orValue('')))
        .flatten()
  - name: injected
    expression: >-
      variables.init.exists(c, c.name == 'preheat-loader' && c.?command.orValue([]) == ['python', '-m', 'preheat.loader'])
      && variables.described.exists(text,
        text.contains(',"name":"' + params.metadata.name + '","namespace":"' + params.metadata.namespace + '",')
        && text.find(',"spec":[{].*,"uid":"') == variables.recipe.pipeline.find(',"spec":[{].*,"uid":"'))

  # The upload that another pass has added.
  - name: uploads
    expression: (variables.init + variables.apps).filter(c, c.name == 'preheat-upload')
  - name: uploading
    expression: >-
      variables.init.exists(c, c.name == 'preheat-upload'
        && c.?command.orValue([]) == ['python', '-m', 'preheat.uploading.sidecar']
        && c.?env.orValue([]).exists(e, e.name == 'PREHEAT_UPLOAD'
          && e.?value.orValue('') == variables.recipe.upload.settings))
{{- end }}
